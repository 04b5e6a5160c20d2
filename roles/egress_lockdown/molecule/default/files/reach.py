"""Prints which of its arguments, KIND:PORT:ADDRESS, answer. Run on the device and in its containers."""

import socket
import sys
import threading

TIMEOUT_S = 1.5
reached = []


def ask(word):
    """Note the word if somebody answers."""
    kind, port, address = word.split(":", 2)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    client.settimeout(TIMEOUT_S)
    try:
        client.connect((address, int(port)))
        if kind == "udp":
            client.send(b"there")
        if client.recv(16) == b"here":
            reached.append(f"{kind}{'6' if ':' in address else '4'}:{port}")
    except OSError:
        pass


threads = [threading.Thread(target=ask, args=[word]) for word in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(" ".join(sorted(reached)) or "nothing")
