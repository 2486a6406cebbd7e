"""Start a training program as several workers on this machine, as a cluster would.

    python examples/cluster.py --workers 2 examples/sentiment.py --resume state

Every worker gets the environment variable TF_CONFIG, with free ports of this machine. If a worker
dies, the others cannot go on: all are stopped and started again, up to AGAIN times. With `--resume`
the program then goes on with the epoch that was cut short. Ctrl-C stops all workers. Use this
script to try a training for many machines on one machine. It does not make the training faster.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from argument_types import command_line, whole


def arguments():
    p = command_line(__doc__)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--again", type=whole, default=3, help="how often all are started again")
    p.add_argument("program", help="a training program; its options follow")
    p.add_argument("options", nargs=argparse.REMAINDER)
    args = p.parse_args()
    if args.workers < 1:
        p.error(f"--workers must be at least 1. Received: {args.workers}")
    if not os.path.isfile(args.program):
        p.error(f"PROGRAM must be a file of Python. Received: {args.program}")
    return args


def free_ports(number):
    with contextlib.ExitStack() as sockets:  # all are open at once, so that no two ports are equal
        opened = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for each in opened:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in opened]


def started(command, workers):
    """Starts the workers; returns their processes."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes = []
    for index in range(workers):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        environment = {**os.environ, "TF_CONFIG": config, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=pass_on, args=(process.stdout, index)).start()
        processes.append(process)
        print(f"worker {index}: process {process.pid}, {addresses[index]}", flush=True)
    return processes


def pass_on(lines, index):
    for line in lines:
        sys.stdout.buffer.write(f"[{index}] ".encode() + line)
        sys.stdout.flush()


def outcome(processes):
    """Waits until all end well, or one fails. Returns 0, or the exit status of that process."""
    while True:
        statuses = [process.poll() for process in processes]
        for index, status in enumerate(statuses):
            if status:
                print(f"worker {index} ended with {status}", flush=True)
                return status
        if None not in statuses:
            return 0
        time.sleep(0.2)


def stop(processes):
    for process in processes:
        process.kill()  # it may wait for a worker that has died
        process.wait()


def main():
    args = arguments()
    for sent in (signal.SIGTERM, signal.SIGINT):  # SIGINT, too: some shells set it to be ignored
        signal.signal(sent, lambda number, _: sys.exit(128 + number))
    for left in reversed(range(args.again + 1)):
        processes = started([sys.executable, args.program, *args.options], args.workers)
        try:
            status = outcome(processes)
        finally:
            stop(processes)
        if not status:
            return
        if status == 2:  # the program did not take its options, and never will
            sys.exit("A worker ended with 2, the status of a wrong option. None is started again.")
        if left:
            print(f"All are started again, {left} more times at most.", flush=True)
    sys.exit(f"A worker ended with {status}, and all were started {args.again + 1} times.")


if __name__ == "__main__":
    main()
