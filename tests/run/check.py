"""See check.sh, which calls this with JUNTO, the folder of environments, a folder, a prefix for namespaces (or nothing), and names of cases."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nat
from lab import PATIENCE, RELAY, Failed, Lab, free_ports

HERE = os.path.dirname(os.path.abspath(__file__))
MPYC = os.path.join(HERE, "mpyc")
CASES = []


class Skipped(Exception):
    """What the case needs is not here."""


def case(function):
    CASES.append(function)
    return function


def needs_spaces(lab):
    """A case that means nothing on one loopback."""
    if not lab.prefix:
        raise Skipped("it needs network namespaces (root, iproute2)")


def show(line):
    print(f"run: {line}", flush=True)


def plain(lab, parties, program):
    """What the program prints when it runs over TCP on one machine."""
    command = [lab.python("mpyc"), *program, "-M", str(parties), "--no-log"]
    done = subprocess.run(lab.inside(0, command), check=False, capture_output=True, text=True, cwd=MPYC, timeout=PATIENCE)
    if done.returncode != 0:
        raise Failed(f"{program} fails over TCP: {done.stderr[-2000:]}")
    return done.stdout


class Run:
    """A program that all parties run in a session, which start in `order`."""

    def __init__(self, lab, program, order, options=(), kind="mpyc", start=True):
        self.lab, self.options, self.kind = lab, options, kind
        self.program = [lab.python(kind), *program]
        self.profiles = lab.session(len(order))
        self.parties = {}
        for party in order if start else []:
            self.start(party)

    def start(self, party, folder=None):
        folder = folder or os.path.join(HERE, self.kind)
        self.parties[party] = self.lab.run(party, self.profiles[party], self.program, self.options, cwd=folder)

    def index(self, party):
        """What the session calls a party."""
        self.parties[party].until("you are party", "errors")
        return re.search(r"you are party (\d+)", self.parties[party].errors()).group(1)

    def all_run(self):
        for party, process in self.parties.items():
            if not process.runs():
                raise Failed(f"party {party} ended: {process.child.returncode}: {process.errors()[-2000:]}")

    def fails(self, party, codes, named, claimants=(), patience=60):
        """That party's run ends soon, with one of these exit codes, naming that one and nobody else, or with it one of those who say so."""
        named = self.index(named)
        expected = [{named, self.index(claimant)} for claimant in claimants] or [{named}]
        process = self.parties[party]
        code = process.wait(patience)
        last = process.output().splitlines()[-1]
        with contextlib.suppress(ValueError):
            error = json.loads(last)["error"]
            if code in codes and set((error.get("party") or "").split(", ")) in expected:
                return error
        raise Failed(f"party {party} should name one of {expected} with {codes}, but {code}: {process.errors()[-2000:]}")

    def expect(self, printed):
        """All end well, and have printed just that."""
        for party, process in self.parties.items():
            if process.wait() != 0:
                raise Failed(f"party {party}: exit code {process.child.returncode}: {process.errors()[-2000:]}")
            if process.output() != printed:
                raise Failed(f"party {party} has another result than over TCP:\n{process.output()}\n{printed}")


def same_as_over_tcp(lab, program, order):
    begun = time.monotonic()
    printed = plain(lab, len(order), program)
    over_tcp = time.monotonic() - begun
    run = Run(lab, [*program, "--no-log"], order, start=False)
    begun = time.monotonic()
    for party in order:
        run.start(party)
    run.expect(printed)
    over_session = time.monotonic() - begun
    show(f"{' '.join(program)}, {len(order)} parties: the same as over TCP, {over_session:.1f} s instead of {over_tcp:.1f} s")


@case
def parties_reach_the_relay_and_nobody_else(lab):
    needs_spaces(lab)
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


@case
def tls_of_mpyc_itself(lab):
    # As its manual has it: `.config` where the program is started holds a party's own certificate and key, and the
    # authority's certificate. The session decides who is which party, so certificates are made when it stands.
    program = [os.path.join(MPYC, "rounds.py"), "20"]
    run = Run(lab, [*program, "--no-log", "--ssl"], [3, 1, 2], start=False)
    home = os.path.join(lab.work, "tls")
    made = os.path.join(home, "authority")
    os.makedirs(made)
    openssl(made, "authority", "mpyc_ca", [])
    for party in [3, 1, 2]:
        index = lab.index(run.profiles[party])
        config = os.path.join(home, str(party), ".config")
        os.makedirs(config)
        openssl(config, f"MPyC party {index}", f"party_{index}", ["-CA", f"{made}/mpyc_ca.crt", "-CAkey", f"{made}/mpyc_ca.key"])
        shutil.copy(f"{made}/mpyc_ca.crt", config)
        run.start(party, os.path.dirname(config))
    run.expect(plain(lab, 3, program))


def openssl(folder, name, file, more):
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{file}.key"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-out", f"{file}.crt", "-subj", f"/CN={name}", "-days", "2", *more],
        check=True, capture_output=True, cwd=folder)


@case
def every_party_dials_every_other_with_spu(lab):
    if not os.path.exists(lab.python("spu")):
        raise Skipped("no wheel of spu for this machine")
    order = [2, 3, 1]
    run = Run(lab, ["salaries.py"], order, ["--adapter", os.path.join(HERE, "spu", "link.toml")], kind="spu")
    # The same over TCP, beside it: SPU takes its time to start.
    places = ",".join(f"127.0.0.1:{port}" for port in free_ports(len(order)))
    salaries = os.path.join(HERE, "spu", "salaries.py")
    over_tcp = [
        lab.spawn(0, [lab.python("spu"), salaries, str(rank), places], f"tcp{rank}") for rank in range(len(order))]
    for process in over_tcp:
        if process.wait() != 0 or not process.output().startswith("result"):
            raise Failed(f"over TCP: {process.errors()[-2000:]}")
    run.expect(over_tcp[0].output())
    show(f"salaries.py, 3 parties: the same as over TCP, {over_tcp[0].output().strip()}")


# Long enough that it runs when the fault comes; each case looks.
ROUNDS = ["rounds.py", "150"]
# How long a fault lasts, in seconds: beyond the first patience of every timer below the streams.
OUTAGE = 20
# In which a party must be heard of, in seconds; the least that there is.
SILENCE = 15


def under_way(lab, options=()):
    """Three parties in the middle of many rounds."""
    run = Run(lab, [*ROUNDS, "--no-log"], [2, 1, 3], options)
    for process in run.parties.values():
        process.until("after 10 ")
    return run


@case
def a_relay_is_killed_and_started_again(lab):
    run = under_way(lab)
    lab.relay.signal(signal.SIGKILL)
    lab.relay.wait()
    time.sleep(3)
    run.all_run()
    lab.start_relay()
    run.expect(plain(lab, 3, ROUNDS))


@case
def no_byte_is_wrong_when_a_relay_is_killed(lab):
    run = Run(lab, ["flood.py", "{id}", "{peers}", "8"], [1, 2, 3], kind="plain")
    for before in ["after 1 MiB", "after 3 MiB", "after 5 MiB"]:
        run.parties[1].until(before)
        lab.relay.signal(signal.SIGKILL)
        lab.relay.wait()
        run.all_run()
        lab.start_relay()
    run.expect("".join(f"after {mib} MiB\n" for mib in range(1, 9)) + "result 8 MiB from each of 2\n")


@contextlib.contextmanager
def within_reach(lab):
    """Parties can reach each other."""
    needs_spaces(lab)
    lab.forward(True)
    try:
        yield
    finally:
        lab.forward(False)


def until_said(run, words, times):
    """Returns once each party has said that so often."""
    end = time.monotonic() + PATIENCE
    while any(process.errors().count(words) < times for process in run.parties.values()):
        run.all_run()
        if time.monotonic() > end:
            raise Failed(f"not everybody says {words!r}: {run.parties[1].errors()[-2000:]}")
        time.sleep(0.05)


def dripping(lab, paths, order=(1, 2)):
    """Parties whose programs send to each other until the file, and what is run."""
    lab.numbered += 1
    end = os.path.join(lab.work, f"{lab.numbered}-end")
    run = Run(lab, ["drip.py", "{id}", "{peers}", end], list(order), ["--paths", paths], kind="plain")
    return run, end


@case
def direct_paths_carry_a_program_past_a_relay_that_is_dead(lab):
    with within_reach(lab):
        for paths in ["prefer-direct", "direct-only"]:
            run = Run(lab, ["flood.py", "{id}", "{peers}", "64"], [1, 2], ["--paths", paths], kind="plain")
            until_said(run, "Direct path to", 1)
            # What went over the relay before has come.
            for process in run.parties.values():
                process.until(f"after {process.output().count('after') + 2} MiB")
            lab.relay.signal(signal.SIGKILL)
            lab.relay.wait()
            for process in run.parties.values():
                process.until("result 64 MiB")
            lab.start_relay()
            run.expect("".join(f"after {mib} MiB\n" for mib in range(1, 65)) + "result 64 MiB from each of 1\n")


@case
def a_direct_path_that_is_blocked_is_not_missed_and_comes_back(lab):
    with within_reach(lab):
        run, end = dripping(lab, "prefer-direct")
        for times in [1, 2]:
            until_said(run, "Direct path to", times)
            lab.forward(False)
            until_said(run, "going on over the relays", times)
            lab.forward(True)
        until_said(run, "Direct path to", 3)
        open(end, "w", encoding="ascii").close()
        run.expect("result: every piece\n")


@case
def who_goes_directly_only_waits_while_it_is_blocked(lab):
    with within_reach(lab):
        run, end = dripping(lab, "direct-only")
        until_said(run, "Direct path to", 1)
        lab.forward(False)
        until_said(run, "waits for the next one", 1)
        lab.forward(True)
        until_said(run, "Direct path to", 2)
        open(end, "w", encoding="ascii").close()
        run.expect("result: every piece\n")


def directly(run, party):
    """To whom a party says that it has a direct path now, as the session calls them."""
    now = set()
    for line in run.parties[party].errors().splitlines():
        parties = set(re.findall(r"party (\d+)", line))
        if line.startswith("Direct path to"):
            now |= parties
        elif line.startswith("The direct path to"):
            now -= parties
    return now


def is_direct(run, pairs):
    """Whether there are direct paths between these pairs of parties, and no others."""
    index = {party: run.index(party) for party in run.parties}
    expected = {party: {index[other] for pair in pairs if party in pair for other in pair - {party}} for party in run.parties}
    return {party: directly(run, party) for party in run.parties} == expected


def until_direct(run, pairs):
    end = time.monotonic() + PATIENCE
    while not is_direct(run, pairs):
        run.all_run()
        if time.monotonic() > end:
            told = {party: (run.index(party), directly(run, party)) for party in run.parties}
            raise Failed(f"direct paths should be between {pairs}, but {told}")
        time.sleep(0.1)


def through_nats(lab, kinds, without):
    """All pairs of parties behind such NATs have direct paths but `without`; the program notices nothing in any case."""
    if not shutil.which("nft"):
        raise Skipped("it needs nft (nftables)")
    pairs = [{one, other} for one in kinds for other in kinds if one < other]
    expected = [pair for pair in pairs if pair not in without]
    natted = {party: kind for party, kind in kinds.items() if kind}
    with within_reach(lab), nat.behind(lab, natted):
        run, end = dripping(lab, "prefer-direct", sorted(kinds))
        begun = time.monotonic()
        until_direct(run, expected)
        show(f"{kinds}: {len(expected)} of {len(pairs)} pairs directly after {time.monotonic() - begun:.1f} s")
        # Whoever is not reached is called twice at least in this time.
        time.sleep(12 if without else 0)
        if not is_direct(run, expected):
            raise Failed("direct paths have come or gone")
        open(end, "w", encoding="ascii").close()
        run.expect("result: every piece\n")


@case
def parties_behind_nats_reach_each_other_directly(lab):
    kinds = {1: None, 2: "full cone", 3: "address-restricted", 4: "port-restricted", 5: "symmetric"}
    through_nats(lab, kinds, [{4, 5}])


@case
def parties_behind_the_strictest_nats_do_where_it_can_be(lab):
    kinds = {1: "port-restricted", 2: "port-restricted", 3: "symmetric", 4: "symmetric"}
    through_nats(lab, kinds, [{1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 4}])


@case
def who_has_no_udp_goes_over_the_relays(lab):
    through_nats(lab, {1: None, 2: "port-restricted", 3: "UDP blocked"}, [{1, 3}, {2, 3}])


@case
def a_relay_that_tells_no_addresses_costs_nothing_but_paths_between_nats(lab):
    file = os.path.join(lab.folder, "relay.toml")
    with open(file, encoding="utf-8") as settings:
        told = settings.read()
    section = "[observe]\n# (restart)\nenabled = true"
    if section not in told:
        raise Failed("the relay's settings do not say that it tells addresses")

    def begin_with(text):
        with open(file, "w", encoding="utf-8") as settings:
            settings.write(text)
        lab.relay.signal(signal.SIGTERM)
        lab.relay.wait()
        lab.start_relay()

    begin_with(told.replace(section, section.replace("true", "false")))
    try:
        through_nats(lab, {1: None, 2: "port-restricted", 3: "port-restricted"}, [{2, 3}])
    finally:
        begin_with(told)


@case
def a_path_between_nats_that_is_cut_or_whose_nat_moves_comes_back(lab):
    if not shutil.which("nft"):
        raise Skipped("it needs nft (nftables)")
    with within_reach(lab), nat.behind(lab, {1: "port-restricted", 2: "port-restricted"}):
        run, end = dripping(lab, "prefer-direct", [1, 2])
        until_direct(run, [{1, 2}])
        lab.forward(False)
        until_said(run, "going on over the relays", 1)
        lab.forward(True)
        until_direct(run, [{1, 2}])
        # The relay tells the new address, and each tells the other.
        nat.address(lab, 2, 3)
        until_said(run, "going on over the relays", 2)
        until_direct(run, [{1, 2}])
        open(end, "w", encoding="ascii").close()
        run.expect("result: every piece\n")


@case
def who_goes_directly_only_and_cannot_says_so(lab):
    needs_spaces(lab)
    lab.numbered += 1
    run = Run(lab, ["flood.py", "{id}", "{peers}", "1"], [1, 2], ["--json", "--silence", str(SILENCE), "--paths", "direct-only"], kind="plain")
    for party in [1, 2]:
        run.fails(party, [3], 3 - party, [1, 2])


@case
def a_network_vanishes_and_comes_back(lab):
    needs_spaces(lab)
    run = under_way(lab)
    lab.unplug(2)
    time.sleep(OUTAGE)
    run.all_run()
    lab.plug(2)
    run.expect(plain(lab, 3, ROUNDS))


@case
def a_party_moves_to_another_network(lab):
    needs_spaces(lab)
    run = under_way(lab)
    lab.move(3, 3)
    try:
        run.expect(plain(lab, 3, ROUNDS))
    finally:
        lab.move(3, 2)


@case
def a_laptop_sleeps(lab):
    run = under_way(lab)
    run.parties[3].signal(signal.SIGSTOP)
    time.sleep(OUTAGE)
    run.all_run()
    run.parties[3].signal(signal.SIGCONT)
    run.expect(plain(lab, 3, ROUNDS))


@case
def a_laptop_that_sleeps_too_long_is_named_and_hears_it(lab):
    run = under_way(lab, ["--json", "--silence", str(SILENCE)])
    run.parties[3].signal(signal.SIGSTOP)
    for party in [1, 2]:
        run.fails(party, [3], 3)
    run.parties[3].signal(signal.SIGCONT)
    # It cannot say that the others were silent, who were there all the time.
    if "not heard" in run.fails(3, [3], 3, [1, 2])["message"]:
        raise Failed(run.parties[3].errors()[-2000:])


@case
def a_network_that_stays_away_is_named(lab):
    needs_spaces(lab)
    run = under_way(lab, ["--json", "--silence", str(SILENCE)])
    lab.unplug(2)
    try:
        for party in [1, 3]:
            run.fails(party, [3], 2)
        if run.parties[2].wait(60) != 3:
            raise Failed(f"who is cut off: {run.parties[2].errors()[-2000:]}")
    finally:
        lab.plug(2)


@case
def whose_program_is_killed_is_named(lab):
    run = under_way(lab, ["--json"])
    for child in run.parties[2].children():
        os.kill(child, signal.SIGKILL)
    for party in [1, 3]:
        run.fails(party, [1], 2)
    if run.parties[2].wait(60) != 1:
        raise Failed(f"whose program was killed: {run.parties[2].errors()[-2000:]}")


@case
def whose_program_is_killed_is_named_by_programs_that_end_of_it(lab):
    run = Run(lab, ["flood.py", "{id}", "{peers}", "64"], [1, 2, 3], ["--json"], kind="plain")
    run.parties[1].until("after 1 MiB")
    for child in run.parties[2].children():
        os.kill(child, signal.SIGKILL)
    for party in [1, 3]:
        run.fails(party, [1], 2)


@case
def whose_junto_is_killed_is_named(lab):
    run = under_way(lab, ["--json", "--silence", str(SILENCE)])
    run.parties[1].signal(signal.SIGKILL)
    for party in [2, 3]:
        run.fails(party, [3], 1)


@case
def who_was_killed_and_begins_anew_is_named_at_once(lab):
    run = under_way(lab, ["--json"])
    index = run.index(1)
    run.parties[1].signal(signal.SIGKILL)
    run.parties[1].wait()
    run.start(1)
    for party in [2, 3]:
        error = run.fails(party, [3], 1)
        if "began anew" not in error["message"]:
            raise Failed(f"{error} for party {index}")


def main():
    junto, tools, work, prefix, *chosen = sys.argv[1:]
    # So that what was started ends, and namespaces with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    skipped, failed = [], []
    with Lab(junto, tools, work, 5, prefix) as lab:
        for function in CASES:
            name = function.__name__
            if chosen and not any(part in name for part in chosen):
                continue
            begun = time.monotonic()
            try:
                function(lab)
                show(f"{name}: ok, {time.monotonic() - begun:.0f} s")
            except Skipped as reason:
                show(f"{name}: skipped: {reason}")
                skipped.append(name)
            except Failed as error:
                show(f"{name}: FAILED: {error}")
                failed.append(name)
    if not prefix:
        show("without network namespaces: the parties shared one loopback")
    if skipped:
        show(f"{len(skipped)} skipped: {', '.join(skipped)}")
        if os.environ.get("JUNTO_CI"):
            sys.exit("nothing may be skipped here")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
