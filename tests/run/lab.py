"""A relay and parties that can reach nobody but it: each in a network namespace of its own.

Each party has one cable, which ends at the relay's namespace; nothing is forwarded there. Whoever may not make namespaces
gets the same parties on loopback, and must say what that leaves out.
"""
import contextlib
import json
import os
import signal
import socket
import subprocess
import time

# For what must happen; nothing waits for it to pass.
PATIENCE = 240
RELAY = "10.213.0.1"


class Failed(Exception):
    """What should hold does not."""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Process:
    """A process group: its leader's output goes to a file, and nothing of it outlives the lab."""

    def __init__(self, command, out, env=None, cwd=None):
        self.out, self.err = out + ".out", out + ".err"
        with open(self.out, "wb") as stdout, open(self.err, "wb") as stderr:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                env=dict(os.environ, **(env or {})), cwd=cwd, start_new_session=True)

    def output(self):
        with open(self.out, encoding="utf-8", errors="replace") as file:
            return file.read()

    def errors(self):
        with open(self.err, encoding="utf-8", errors="replace") as file:
            return file.read()

    def runs(self):
        return self.child.poll() is None

    def until(self, words, where="output"):
        """Returns once it has said `words`."""
        end = time.monotonic() + PATIENCE
        while words not in getattr(self, where)():
            if not self.runs() and words not in getattr(self, where)():
                raise Failed(f"ended ({self.child.returncode}) before it said {words!r}: {self.errors()[-2000:]}")
            if time.monotonic() > end:
                raise Failed(f"never said {words!r}: {self.errors()[-2000:]}")
            time.sleep(0.02)

    def wait(self, patience=PATIENCE):
        try:
            return self.child.wait(patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"does not end: {self.errors()[-2000:]}") from None

    def signal(self, number):
        os.kill(self.child.pid, number)

    def children(self):
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


class Lab:
    """`prefix` names the namespaces; `None` puts all on loopback."""

    def __init__(self, junto, tools, work, parties, prefix):
        self.junto, self.tools, self.work, self.count, self.prefix = junto, tools, work, parties, prefix
        self.processes, self.numbered = [], 0
        self.relay = None

    def __enter__(self):
        try:
            if self.prefix:
                self._cables()
            self._init_relay()
            self.start_relay()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.end()
        if self.prefix:
            for space in [self.space(0), *map(self.space, self.parties())]:
                # It may not have been made.
                subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)

    def parties(self):
        return range(1, self.count + 1)

    def space(self, party):
        """The namespace of a party, or with 0 of the relay."""
        return f"{self.prefix}{party}"

    def _cables(self):
        hub = self.space(0)
        ip("netns", "add", hub)
        ip("-n", hub, "link", "set", "lo", "up")
        ip("-n", hub, "address", "add", f"{RELAY}/32", "dev", "lo")
        # A new namespace may begin with what this machine does.
        self.forward(False)
        for party in self.parties():
            space = self.space(party)
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", hub, "link", "add", f"party{party}", "type", "veth", "peer", "name", "relay", "netns", space)
            ip("-n", hub, "address", "add", f"10.213.{party}.1/24", "dev", f"party{party}")
            ip("-n", hub, "link", "set", f"party{party}", "up")
            self.move(party, 2)

    def forward(self, does):
        """Whether parties reach each other, through the relay's namespace and past the relay."""
        for kind in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]:
            file = f"/proc/sys/net/{kind}"
            write = f"[ ! -e {file} ] || echo {int(does)} > {file}"
            subprocess.run(["ip", "netns", "exec", self.space(0), "sh", "-c", write], check=True)

    def move(self, party, host):
        """Gives a party an address, and takes away the one it had."""
        space = self.space(party)
        ip("-n", space, "address", "flush", "dev", "relay")
        ip("-n", space, "address", "add", f"10.213.{party}.{host}/24", "dev", "relay")
        ip("-n", space, "link", "set", "relay", "up")
        ip("-n", space, "route", "replace", "default", "via", f"10.213.{party}.1")

    def unplug(self, party):
        """Nothing comes through any more, and nobody is told."""
        ip("-n", self.space(0), "link", "set", f"party{party}", "down")

    def plug(self, party):
        ip("-n", self.space(0), "link", "set", f"party{party}", "up")

    def python(self, kind):
        """The Python that has what programs of that kind need."""
        return "python3" if kind == "plain" else os.path.join(self.tools, kind, "bin", "python")

    def inside(self, party, command):
        return ["ip", "netns", "exec", self.space(party), *command] if self.prefix else command

    def spawn(self, party, command, name, **more):
        self.numbered += 1
        process = Process(self.inside(party, command), os.path.join(self.work, f"{self.numbered}-{name}"), **more)
        self.processes.append(process)
        return process

    def _init_relay(self):
        host = RELAY if self.prefix else "127.0.0.1"
        # In a namespace of its own every port is free.
        port = 5223 if self.prefix else free_ports(1)[0]
        self.folder = os.path.join(self.work, "relay")
        made = subprocess.run(
            [self.junto, "--json", "relay", "init", "--dir", self.folder, "--host", host, "--port", str(port)],
            check=True, capture_output=True, text=True)
        self.address = json.loads(made.stdout)["address"]

    def start_relay(self):
        self.relay = self.spawn(0, [self.junto, "relay", "start", "--dir", self.folder], "relay")
        end = time.monotonic() + PATIENCE
        status = self.inside(0, [self.junto, "-q", "relay", "status", self.address])
        while subprocess.run(status, check=False, capture_output=True).returncode != 0:
            if not self.relay.runs() or time.monotonic() > end:
                raise Failed(f"the relay does not start: {self.relay.errors()[-2000:]}")
            time.sleep(0.1)

    def reaches(self, party, host, port):
        """Whether a connection can be made."""
        dial = f"import socket; socket.create_connection(({host!r}, {port}), 2)"
        return subprocess.run(self.inside(party, ["python3", "-c", dial]), check=False, capture_output=True).returncode == 0

    def session(self, parties):
        """Profiles of a new session, formed before it is used: from then on the order of start is free."""
        self.numbered += 1
        folder = os.path.join(self.work, f"{self.numbered}-profiles")
        os.mkdir(folder)
        profiles = {party: os.path.join(folder, str(party)) for party in range(1, parties + 1)}
        wait = ["--timeout", "120"]
        host = self.spawn(
            1, [self.junto, "--profile", profiles[1], "--json", "session", "new", "--parties", str(parties),
                "--relay", self.address, "--name", "s", *wait], "new")
        host.until("\n")
        link = json.loads(host.output().splitlines()[0])["link"]
        forming = [host]
        for party in range(2, parties + 1):
            join = [self.junto, "--profile", profiles[party], "--json", "session", "join", link, *wait]
            forming.append(self.spawn(party, join, "join"))
        for process in forming:
            if process.wait() != 0:
                raise Failed(f"no session: {process.errors()[-2000:]}")
        return profiles

    def index(self, profile):
        """What the session calls the party of that profile."""
        show = [self.junto, "--profile", profile, "--json", "session", "show", "s"]
        return json.loads(subprocess.run(show, check=True, capture_output=True, text=True).stdout)["me"]

    def run(self, party, profile, program, options=(), **more):
        """`junto run`, in the session of that profile."""
        command = [self.junto, "--profile", profile, "run", "--session", "s", *options, "--", *program]
        return self.spawn(party, command, f"run{party}", **more)


def free_ports(count):
    """Ports of loopback that nobody uses at this moment."""
    with contextlib.ExitStack() as open_ones:
        listeners = [open_ones.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]
