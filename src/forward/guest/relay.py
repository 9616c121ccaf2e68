import os
import select
import socket
import sys

LIMIT = 262144
try:
    sock = socket.create_connection(("localhost", int(sys.argv[1])))
except OSError:
    sys.exit(111)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
net = sock.fileno()
for fd in (net, 0, 1):
    os.set_blocking(fd, False)

# Each direction: source, destination (None when closed), buffered data, whether
# the source is open, and number of bytes written.
directions = [[0, net, b"", True, 0], [net, 1, b"", True, 0]]


def finish(direction):
    if direction[1] == net:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    else:
        # stdout ends only when this process exits.
        os.write(2, b"%d\n" % direction[4])
    direction[1] = None


while True:
    live = [direction for direction in directions if direction[1] is not None]
    r = [direction[0] for direction in live if direction[3] and len(direction[2]) < LIMIT]
    w = [direction[1] for direction in live if direction[2]]
    if not r and not w:
        break
    r, w, _ = select.select(r, w, [])
    for direction in live:
        if direction[1] in w:
            try:
                sent = os.write(direction[1], direction[2][:65536])
                direction[2] = direction[2][sent:]
                direction[4] += sent
            except BlockingIOError:
                pass
            except OSError:
                os._exit(0)
        if direction[3] and direction[0] in r:
            try:
                data = os.read(direction[0], 65536)
                direction[2] += data
                direction[3] = bool(data)
            except BlockingIOError:
                pass
            except OSError:
                direction[3] = False
        if not direction[3] and not direction[2]:
            finish(direction)
