"""Each party dials each other and sends it small pieces, until there is the file that is named; each checks every byte that comes."""
import os
import socket
import sys
import threading
import time

PIECE = 1024
me, places, end = int(sys.argv[1]), [place.rsplit(":", 1) for place in sys.argv[2].split(",")], sys.argv[3]
others = [party for party in range(len(places)) if party != me]


def piece(sender, receiver, count):
    return f"{sender} to {receiver}: {count}".encode().ljust(PIECE, b".")


def send(receiver):
    with socket.create_connection((places[receiver][0], int(places[receiver][1]))) as call:
        call.sendall(bytes([me]))
        count = 0
        while not os.path.exists(end):
            call.sendall(piece(me, receiver, count))
            count += 1
            time.sleep(0.02)
        call.sendall(b"the last words")


def receive(call):
    sender, count = call.read(1)[0], 0
    while (read := call.read(PIECE)) == piece(sender, me, count):
        count += 1
    if read != b"the last words" or count == 0:
        # All threads end with it.
        print(f"other bytes than were sent, after {count} pieces", flush=True)
        os._exit(1)


listener = socket.create_server(("127.0.0.1", int(places[me][1])))
threads = [threading.Thread(target=send, args=(receiver,)) for receiver in others]
for thread in threads:
    thread.start()
receivers = [threading.Thread(target=receive, args=(listener.accept()[0].makefile("rb"),)) for _ in others]
for thread in receivers:
    thread.start()
for thread in threads + receivers:
    thread.join()
print("result: every piece", flush=True)
