"""Celery on the broker that KRAFTR_AMQP_URL names, measured as `kraftr bench control-plane --bare` is.

Quorum queue, acks_late, prefetch 1, confirmed publishes, 1 KB of payload, no results, a handler that
does nothing. Usage: celery_queue.py JOBS RATE; needs celery 5.7. Prints one line of JSON: publishes a
second, jobs burnt down a second, and in an open loop at RATE a second for ten seconds the milliseconds
from when a job was due to its handler.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time

from celery import Celery
from kombu import Queue

QUEUE = os.environ.get("CELERY_BENCH_QUEUE", f"celery.bench.{os.getpid()}")
ARRIVALS = os.environ.get("CELERY_BENCH_ARRIVALS", "")

app = Celery("celery_queue", broker=os.environ["KRAFTR_AMQP_URL"])
app.conf.update(
    task_default_queue=QUEUE,
    task_queues=[Queue(QUEUE, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue_type="quorum",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(due, payload):
    # One atomic append for each job: the length of the file counts them.
    os.write(noop.arrivals, struct.pack("d", time.time() - due))


noop.arrivals = os.open(ARRIVALS, os.O_WRONLY | os.O_APPEND) if ARRIVALS else None


def main():
    jobs, rate = int(sys.argv[1]), float(sys.argv[2])
    payload = "x" * 1024
    noop.apply_async((0.0, payload))
    start = time.time()
    for _ in range(jobs - 1):
        noop.apply_async((0.0, payload))
    publishes_per_s = (jobs - 1) / (time.time() - start)

    with tempfile.NamedTemporaryFile() as arrivals:
        worker = start_worker(arrivals.name)
        try:
            # From the first job handled: starting Python is not what is measured.
            wait(arrivals.name, 1)
            start, first = time.time(), count(arrivals.name)
            wait(arrivals.name, jobs)
            burn_per_s = (jobs - first) / (time.time() - start)

            loop = int(rate * 10)
            start = time.time()
            for n in range(loop):
                due = start + n / rate
                time.sleep(max(0.0, due - time.time()))
                noop.apply_async((due, payload))
            wait(arrivals.name, jobs + loop)
        finally:
            worker.terminate()
            worker.wait()
        with open(arrivals.name, "rb") as file:
            took = sorted(value for (value,) in struct.iter_unpack("d", file.read()[jobs * 8 :]))
    with app.connection() as connection:
        connection.default_channel.queue_delete(QUEUE)
    at = lambda share: round(took[round(share * (len(took) - 1))] * 1000, 2)
    quantiles = {"jobs": len(took), "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": at(1.0)}
    print(json.dumps({"publishes_per_s": publishes_per_s, "burn_per_s": burn_per_s, "open_loop": quantiles}))


def start_worker(arrivals):
    environment = dict(os.environ, CELERY_BENCH_QUEUE=QUEUE, CELERY_BENCH_ARRIVALS=arrivals)
    environment["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    return subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_queue", "worker", "--loglevel=ERROR", "--concurrency=2",
         "--without-gossip", "--without-mingle", "--without-heartbeat", "-Q", QUEUE],
        env=environment, stdout=subprocess.DEVNULL,
    )


def count(path):
    return os.stat(path).st_size // 8


def wait(path, jobs):
    deadline = time.time() + 600
    while count(path) < jobs:
        if time.time() > deadline:
            sys.exit(f"celery handled {count(path)} of {jobs} jobs in ten minutes")
        time.sleep(0.005)


if __name__ == "__main__":
    main()
