"""The transport beside Celery and apalis-amqp on one broker, in turn, in one run.

    set -a; eval "$(scripts/services up --dir run)"; set +a
    python3 benches/baselines/queues.py [JOBS [RATE [TURNS]]]

Runs `kraftr bench control-plane --bare`, celery_queue.py and apalis_queue on the broker that KRAFTR_AMQP_URL
names: confirmed publishes of JOBS jobs, burning them down, an open loop at RATE a second. Installs Celery into
a virtual environment in the cache and builds the two programs where they are missing. Prints one line of JSON:
every side's figures (the median of TURNS turns) and ours over theirs; above 1 is faster for rates, below 1 for
milliseconds. Exit code 2 when a baseline cannot run: a figure of ours alone says nothing about this machine.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CELERY = "celery>=5.7,<5.8"
FIGURES = ["publishes_per_s", "burn_per_s", "p50_ms", "p95_ms", "p99_ms"]


def say(text):
    print(text, file=sys.stderr)


def run(command, **options):
    """Standard output of a command; what it says on standard error is passed on."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def celery_python():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    venv = cache / "kraftr" / "celery"
    python = venv / "bin" / "python"
    if not python.exists():
        say(f"installing {CELERY} into {venv}")
        run([sys.executable, "-m", "venv", str(venv)])
    if subprocess.run([python, "-c", "import celery"], capture_output=True).returncode != 0:
        run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", CELERY])
    return str(python)


def built(manifest, program, *arguments):
    run(["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", str(manifest), *arguments])
    return str(manifest.parent / "target" / "release" / program)


def figures(report):
    loop = report["open_loop"]
    return {name: report[name] if name in report else loop[name] for name in FIGURES}


def main():
    jobs, rate, turns = [int(given) for given in sys.argv[1:]] + [8000, 400, 3][len(sys.argv) - 1 :]
    if "KRAFTR_AMQP_URL" not in os.environ:
        say('KRAFTR_AMQP_URL is not set: eval "$(scripts/services up --dir run)" starts a broker')
        return 2
    try:
        kraftr = built(ROOT / "Cargo.toml", "kraftr", "--package", "kraftr")
        apalis = built(HERE / "apalis_queue" / "Cargo.toml", "apalis-queue")
        python = celery_python()
    except subprocess.CalledProcessError as error:
        say(f"skipped: {' '.join(map(str, error.cmd))} failed")
        return 2
    bare = ["bench", "control-plane", "--bare", "--workers", "2", "--slots", "16", "--json"]
    sides = {
        "kraftr": lambda: json.loads(run([kraftr, *bare, "--jobs", str(jobs), "--rate", str(rate)]))["bare"],
        "celery": lambda: json.loads(run([python, str(HERE / "celery_queue.py"), str(jobs), str(rate)])),
        "apalis": lambda: json.loads(run([apalis, str(jobs), str(rate)])),
    }
    measured = {side: [] for side in sides}
    for turn in range(turns):
        for side, measure in sides.items():
            say(f"turn {turn + 1} of {turns}: {side}")
            measured[side].append(figures(measure()))
    median = {
        side: {name: statistics.median(turn[name] for turn in reports) for name in FIGURES}
        for side, reports in measured.items()
    }
    ratios = {
        peer: {name: round(median["kraftr"][name] / median[peer][name], 3) for name in FIGURES}
        for peer in ("celery", "apalis")
    }
    print(json.dumps({"bench": "queues", "jobs": jobs, "rate": rate, "turns": turns, **median, "ratio": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
