"""Runs a program on a terminal of its own and types.

The argument is JSON: words, columns, environment, and steps. A step waits until the program has shown `see` behind
what the steps before it saw, and with `hidden` until the terminal echoes no more; then it makes the file `mark`, or
types `type`. The answer is JSON: all that was shown, whether the terminal echoed at each step, and how it ended, a
signal as a negative number.
"""
import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

PATIENCE = 60  # seconds; reached only by a test that fails


def main():
    order = json.loads(sys.argv[1])
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, order["columns"], 0, 0))
        for name in ("NO_COLOR", "TERM", "COLUMNS"):
            os.environ.pop(name, None)
        os.environ.update(order["environment"])
        os.execv(order["words"][0], order["words"])
    shown, seen, echoed = b"", 0, []
    deadline = time.monotonic() + PATIENCE
    steps = list(order["steps"])
    while True:
        while steps and (at := shown.find(steps[0]["see"].encode(), seen)) >= 0:
            step = steps.pop(0)
            seen = at + len(step["see"].encode())
            while step.get("hidden") and echoes(terminal) and time.monotonic() < deadline:
                time.sleep(0.001)
            echoed.append(echoes(terminal))
            if "mark" in step:
                open(step["mark"], "w").close()
            os.write(terminal, step.get("type", "").encode())
        if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            os.kill(child, 9)
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the program has closed its end
            piece = b""
        if not piece:
            break
        shown += piece
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"shown": shown.decode(), "echoed": echoed, "ended": ended, "left": len(steps)}))


def echoes(terminal):
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


main()
