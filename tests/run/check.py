"""See check.sh, which calls this with JUNTO, a folder, a prefix for namespaces (or nothing), and names of cases."""
import os
import signal
import subprocess
import sys
import time

from lab import PATIENCE, RELAY, Failed, Lab

HERE = os.path.dirname(os.path.abspath(__file__))
MPYC = os.path.join(HERE, "mpyc")
CASES = []


def case(function=None, spaces=False):
    """A case; one with `spaces` means nothing without namespaces."""
    if function is None:
        return lambda function: case(function, spaces)
    CASES.append((function, spaces))
    return function


def show(line):
    print(f"run: {line}", flush=True)


def plain(lab, parties, program):
    """What the program prints when it runs over TCP on one machine."""
    command = [sys.executable, *program, "-M", str(parties), "--no-log"]
    done = subprocess.run(lab.inside(0, command), check=False, capture_output=True, text=True, cwd=MPYC, timeout=PATIENCE)
    if done.returncode != 0:
        raise Failed(f"{program} fails over TCP: {done.stderr[-2000:]}")
    return done.stdout


class Run:
    """A program that all parties run in a session, which start in `order`."""

    def __init__(self, lab, program, order, options=()):
        self.lab, self.options = lab, options
        self.program = [sys.executable, *program, "--no-log"]
        self.profiles = lab.session(len(order))
        self.parties = {}
        for party in order:
            self.start(party)

    def start(self, party):
        self.parties[party] = self.lab.run(party, self.profiles[party], self.program, self.options, cwd=MPYC)

    def expect(self, printed):
        """All end well, and have printed just that."""
        for party, process in self.parties.items():
            if process.wait() != 0:
                raise Failed(f"party {party}: exit code {process.child.returncode}: {process.errors()[-2000:]}")
            if process.output() != printed:
                raise Failed(f"party {party} has another result than over TCP:\n{process.output()}\n{printed}")


def same_as_over_tcp(lab, program, order):
    Run(lab, program, order).expect(plain(lab, len(order), program))
    show(f"{program[0]}, {len(order)} parties: the same as over TCP")


@case(spaces=True)
def parties_reach_the_relay_and_nobody_else(lab):
    listen = "import socket, time; s = socket.create_server(('', 7000)); print(1, flush=True); time.sleep(1000)"
    listener = lab.spawn(2, ["python3", "-c", listen], "listen")
    listener.until("1")
    if not lab.reaches(2, "10.213.2.2", 7000):
        raise Failed("the listener cannot be reached at all")
    for party, host, port, expected in [(1, RELAY, 5223, True), (1, "10.213.2.2", 7000, False), (1, "10.213.2.1", 5223, True)]:
        if lab.reaches(party, host, port) != expected:
            raise Failed(f"party {party} to {host}: should be {expected}")


@case
def many_tiny_rounds(lab):
    same_as_over_tcp(lab, ["rounds.py", "20"], [3, 1, 2])


@case
def large_vectors_of_two(lab):
    same_as_over_tcp(lab, ["vectors.py", "20000"], [2, 1])


@case
def large_vectors_of_three(lab):
    same_as_over_tcp(lab, ["vectors.py", "5000"], [1, 2, 3])


@case
def several_starts_of_the_runtime(lab):
    same_as_over_tcp(lab, ["restarts.py", "3"], [2, 3, 1])


@case
def long_computing_by_one(lab):
    same_as_over_tcp(lab, ["local.py", "3"], [1, 2])


@case
def five_parties(lab):
    same_as_over_tcp(lab, ["restarts.py", "2"], [5, 3, 1, 4, 2])


def main():
    junto, work, prefix, *chosen = sys.argv[1:]
    # So that what was started ends, and namespaces with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    skipped = 0
    failed = []
    with Lab(junto, work, 5, prefix) as lab:
        for function, spaces in CASES:
            name = function.__name__
            if chosen and not any(part in name for part in chosen):
                continue
            if spaces and not prefix:
                show(f"{name}: skipped, it needs network namespaces (root)")
                skipped += 1
                continue
            begun = time.monotonic()
            try:
                function(lab)
                show(f"{name}: ok, {time.monotonic() - begun:.0f} s")
            except Failed as error:
                show(f"{name}: FAILED: {error}")
                failed.append(name)
    if skipped:
        show(f"{skipped} cases skipped; parties shared one loopback")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
