#!/usr/bin/env python3
"""What the Dockerfile and its guide name exists: images that fit the workspace, package, program, folder,
port, and commands that the program understands. Needs no engine. Takes the program."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parent.parent
program = pathlib.Path(sys.argv[1]).resolve()


def check(holds, what):
    if not holds:
        sys.exit(f"packaging: the image is wrong: {what}")


def read(path):
    return (root / path).read_text()


def version(text):
    return [int(part) for part in text.split(".")]


def one(pattern, text):
    found = re.findall(pattern, text, re.M)
    check(len(found) == 1, f"{len(found)} places match {pattern}")
    return found[0]


def understood(arguments, where):
    """With --help a command does nothing, but its flags must exist."""
    run = subprocess.run([program, *arguments, "--help"], capture_output=True, text=True)
    check(run.returncode == 0, f"{where}: junto {' '.join(arguments)}: {run.stderr.strip()}")


docker = re.sub(r"\\\n", " ", read("packaging/Dockerfile"))
guide = read("docs/operating/relay.md")
metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"],
        cwd=root, check=True, capture_output=True,
    ).stdout
)

compiler, suite = one(r"^FROM rust:([\d.]+)-slim-(\w+) AS build$", docker)
check(suite == one(r"^FROM debian:(\w+)-slim$", docker), "it runs with another libc than it was built with")
package = one(r"cargo build --release --locked --package (\S+)$", docker)
packages = [p for p in metadata["packages"] if p["name"] == package]
check(len(packages) == 1, f"no package {package}")
check(version(compiler) >= version(packages[0]["rust_version"])[:2], f"Rust {compiler} is too old")
source, installed = one(r"^COPY --from=build (\S+) (\S+)$", docker)
place = one(r"^WORKDIR (\S+)$", docker)
programs = [t["name"] for t in packages[0]["targets"] if "bin" in t["kind"]]
check(source in [f"{place}/target/release/{name}" for name in programs], f"{source} is not built")

entry = json.loads(one(r"^ENTRYPOINT (.*)$", docker))
command = json.loads(one(r"^CMD (.*)$", docker))
check(entry[0] == installed, f"{entry[0]} is not what is installed")
understood(entry[1:] + command, "CMD")
state = one(r"^VOLUME (\S+)$", docker)
check(command[-2:] == ["--dir", state], "the relay's folder is not the volume")
check(f"--home-dir {state} " in docker and docker.rstrip().count(f" {state}\n") >= 2, f"nobody makes {state}")
user = one(r"^USER (\d+)$", docker)
check(f"--uid {user} " in docker, f"there is no user {user}")
port = one(r"^EXPOSE (\d+)$", docker)
check(one(r"^port = (\d+)$", read("packaging/relay.toml")) == port, f"no relay listens on {port}")

runs = re.findall(r"^docker run (.*)$", guide, re.M)
check(len(runs) >= 2, "the guide does not run it")
for run in runs:
    words = shlex.split(run, comments=True)
    image = words.index("junto")
    check(f"{state}" in [w.split(":")[-1] for w in words[:image]], f"no volume: docker run {run}")
    understood(entry[1:] + (words[image + 1 :] or command), "guide")
built = one(r"^docker build (.*)$", guide)
check(shlex.split(built) == ["-f", "packaging/Dockerfile", "-t", "junto", "."], built)
print(f"packaging: the image's {len(runs) + 1} commands and what it names exist")
