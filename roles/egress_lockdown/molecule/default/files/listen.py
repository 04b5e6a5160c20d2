"""What is outside: answers on a few ports, over IPv4 and IPv6."""

import selectors
import socket
import sys

sockets = selectors.DefaultSelector()
for word in sys.argv[1:]:
    kind, port = word.split(":")
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", int(port)))
    if kind == "tcp":
        listener.listen()
    sockets.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in sockets.select():
        if key.fileobj.type == socket.SOCK_STREAM:
            connection, _ = key.fileobj.accept()
            connection.sendall(b"here")
            connection.close()
        else:
            _, sender = key.fileobj.recvfrom(512)
            key.fileobj.sendto(b"here", sender)
