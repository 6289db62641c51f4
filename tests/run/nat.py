"""Parties behind NATs of several kinds: a router between each and the relay's namespace, made of `nft`."""
import contextlib
import subprocess

from lab import ip

# The same in every home, as it is: who is told another's address of this kind finds nobody there.
HOME = "192.168.7"
# Packets that come from outside and are nobody's are dropped, not answered: an answer, or an entry of the router's own, would
# stand in the way of what its home sends there a moment later.
CLOSED = """
    chain input {
        type filter hook input priority filter; policy drop;
        iifname != "relay" accept
        ct state established,related accept
    }
"""
OUT = """
    chain out {
        type nat hook postrouting priority srcnat;
        oifname "relay" masquerade %s
    }
"""
# Who has been sent something may answer; ports stay what they are at home.
RESTRICTED = OUT % "" + CLOSED
KINDS = {
    # Whatever comes to a port from which something was sent before goes home.
    "full cone": OUT % "" + CLOSED + """
    set open { type inet_service; }
    chain sent {
        type filter hook postrouting priority mangle;
        oifname "relay" meta l4proto udp add @open { udp sport }
    }
    chain in {
        type nat hook prerouting priority dstnat;
        iifname "relay" udp dport @open dnat to HOME.2
    }
""",
    # If it comes from an address to which something was sent from there.
    "address-restricted": OUT % "" + CLOSED + """
    set open { type ipv4_addr . inet_service; }
    chain sent {
        type filter hook postrouting priority mangle;
        oifname "relay" meta l4proto udp add @open { ip daddr . udp sport }
    }
    chain in {
        type nat hook prerouting priority dstnat;
        iifname "relay" ip saddr . udp dport @open dnat to HOME.2
    }
""",
    # And from the port to which it was sent.
    "port-restricted": RESTRICTED,
    # Another port for each destination.
    "symmetric": OUT % "random,fully-random" + CLOSED,
    "UDP blocked": RESTRICTED + """
    chain forward {
        type filter hook forward priority filter;
        meta l4proto udp drop
    }
""",
}


def router(lab, party):
    """Its namespace, which goes with the lab's."""
    return lab.space(100 + party)


@contextlib.contextmanager
def behind(lab, kinds):
    """Each of these parties is at home behind a NAT of that kind."""
    try:
        for party, kind in kinds.items():
            enter(lab, party, kind)
        yield
    finally:
        for party in kinds:
            leave(lab, party)


def enter(lab, party, kind):
    space, own = lab.space(party), router(lab, party)
    ip("netns", "add", own)
    ip("-n", own, "link", "set", "lo", "up")
    # Its cable is the router's from now on.
    ip("-n", space, "link", "set", "relay", "netns", own)
    address(lab, party, 2)
    ip("-n", own, "link", "add", "home", "type", "veth", "peer", "name", "relay", "netns", space)
    ip("-n", own, "address", "add", f"{HOME}.1/24", "dev", "home")
    ip("-n", own, "link", "set", "home", "up")
    ip("-n", space, "address", "add", f"{HOME}.2/24", "dev", "relay")
    ip("-n", space, "link", "set", "relay", "up")
    ip("-n", space, "route", "replace", "default", "via", f"{HOME}.1")
    inside = ["ip", "netns", "exec", own]
    subprocess.run([*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)
    table = "table ip nat {" + KINDS[kind].replace("HOME", HOME) + "}\n"
    subprocess.run([*inside, "nft", "-f", "-"], input=table, check=True, text=True)


def leave(lab, party):
    own = router(lab, party)
    # Either may not have been made.
    subprocess.run(["ip", "-n", own, "link", "delete", "home"], check=False, capture_output=True)
    back = ["ip", "-n", own, "link", "set", "relay", "netns", lab.space(party)]
    if subprocess.run(back, check=False, capture_output=True).returncode == 0:
        lab.move(party, 2)
    subprocess.run(["ip", "netns", "delete", own], check=False, capture_output=True)


def address(lab, party, host):
    """The router's own; what it knew of the one before is forgotten."""
    own = router(lab, party)
    ip("-n", own, "address", "flush", "dev", "relay")
    ip("-n", own, "address", "add", f"10.213.{party}.{host}/24", "dev", "relay")
    ip("-n", own, "link", "set", "relay", "up")
    ip("-n", own, "route", "replace", "default", "via", f"10.213.{party}.1")
