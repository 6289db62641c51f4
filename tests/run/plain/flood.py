"""Each party dials each other and sends it the MiB asked for, different for every pair; each checks every byte that comes."""
import random
import socket
import sys
import threading

MIB = 1 << 20
me, places, amount = int(sys.argv[1]), [place.rsplit(":", 1) for place in sys.argv[2].split(",")], int(sys.argv[3])
others = [party for party in range(len(places)) if party != me]


def mebibytes(sender, receiver):
    source = random.Random(sender << 8 | receiver)
    for _ in range(amount):
        yield source.randbytes(MIB)


def send(receiver):
    with socket.create_connection((places[receiver][0], int(places[receiver][1]))) as call:
        call.sendall(bytes([me]))
        for mebibyte in mebibytes(me, receiver):
            call.sendall(mebibyte)


listener = socket.create_server(("127.0.0.1", int(places[me][1])))
senders = [threading.Thread(target=send, args=(receiver,)) for receiver in others]
for sender in senders:
    sender.start()
calls = [listener.accept()[0].makefile("rb") for _ in others]
coming = [mebibytes(call.read(1)[0], me) for call in calls]
for count in range(1, amount + 1):
    for call, source in zip(calls, coming):
        if call.read(MIB) != next(source):
            sys.exit("other bytes than were sent")
    print(f"after {count} MiB", flush=True)
for call in calls:
    if call.read():
        sys.exit("more bytes than were sent")
for sender in senders:
    sender.join()
print(f"result {amount} MiB from each of {len(others)}", flush=True)
