"""The try-on network beside PyTorch on the same cores, in turn, in one run.

    python3 benches/baselines/torch_network.py [demo|slice|both [TURNS]]

`demo` is the bundled model. `slice` is an eighth of the published one with random weights: its widths and its
6,912 tokens, one mixer, one double and two single blocks. Two figures of each: one pass of one row, and one image
(guided steps but for the last) from noise to the last step. The best of TURNS counts on each side, since
everything else on the machine can only add to it.

Both sides compute in f32, on as many threads as there are cores. PyTorch runs the network as models/demo/network.py
has it, eager, with its fused attention, RMS norm and complex rotation. Installs PyTorch into a virtual environment in
the cache where this Python has none; KRAFTR_TORCH_PYTHON names a Python that has it. Prints one line of JSON; a ratio below 1 is faster than PyTorch. Exit code 2
when the baseline cannot run: a figure of ours alone says nothing about this machine.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEMO = ROOT / "models" / "demo"
NEEDS = ["torch==2.15.*", "numpy", "safetensors", "pillow"]
THREADS = os.cpu_count()
SLICE = dict(patch_mixer_depth=1, double_blocks_depth=1, single_blocks_depth=2)
# Steps of an image: as the demo is rendered, and as few as have a guided and an unguided one.
STEPS = {"demo": 20, "slice": 2}


def say(text):
    print(text, file=sys.stderr)


def with_torch():
    """Goes on in a Python that has torch."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    venv = cache / "kraftr" / "torch"
    python = venv / "bin" / "python"
    if named := os.environ.pop("KRAFTR_TORCH_PYTHON", None):
        os.execv(named, [named, *sys.argv])
    if not python.exists():
        say(f"installing {', '.join(NEEDS)} into {venv}")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0:
        command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *NEEDS]
        subprocess.run(command, check=True)
    os.execv(python, [str(python), *sys.argv])


try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from safetensors.torch import save_file
except ImportError:
    if sys.prefix != sys.base_prefix:
        raise
    try:
        with_torch()
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"skipped: {error}")
        sys.exit(2)

sys.path.insert(0, str(DEMO))
import network  # noqa: E402


def fused_norm(self, x):
    return F.rms_norm(x, x.shape[-1:], self.scale, 1e-6)


def complex_rotation(x, cos, sin):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)


network.Scale.forward = fused_norm
network.rotate = complex_rotation


def built():
    command = ["cargo", "build", "--release", "--quiet", "--locked", "--workspace", "--bin", "kraftr"]
    subprocess.run(command, check=True, cwd=ROOT)
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], check=True, cwd=ROOT, stdout=subprocess.PIPE
    )
    return pathlib.Path(json.loads(metadata.stdout)["target_directory"]) / "release" / "kraftr"


def slice_release(folder):
    """A network of random weights, and the manifest by which ours finds it."""
    torch.manual_seed(0)
    model = network.TryOn(**SLICE).eval()
    for name, parameter in model.named_parameters():
        # Modulations as small as after a training, so that activations stay within reason.
        parameter.data *= 0.3 if "mod" in name else 1.0
    weights = folder / "slice.safetensors"
    state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, weights)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    height, width = model.shape
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in model.config.items())
    qualities = "".join(f"[quality.{quality}]\nsteps = 30\n" for quality in ("fast", "balanced", "best"))
    (folder / "slice.toml").write_text(f"""name = "slice"
title = "An eighth of the published network, random weights"
task = "try-on"
architecture = "fashn-vton"
size = [{width}, {height}]
categories = ["tops", "bottoms", "one-pieces"]
price = 1
device_time_ms = 1000
licence = "Apache-2.0"
[config]
poses = false
{config}
[[files]]
role = "weights"
name = "{weights.name}"
sha256 = "{hashlib.sha256(weights.read_bytes()).hexdigest()}"
bytes = {weights.stat().st_size}
[defaults]
guidance = 1.5
{qualities}[limits]
steps_min = 1
steps_max = 100
samples_max = 1
""")
    return model


def conditions(model):
    height, width = model.shape

    def picture(name):
        image = Image.open(DEMO / "samples" / name).convert("RGB").resize((width, height), Image.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1

    nobody = torch.full((1, 1, height, width), -1.0)
    return dict(ca_images=picture("person-2.png"), garment_images=picture("garment-striped-longsleeve.png"),
                person_poses=nobody, garment_poses=nobody, garment_categories=torch.tensor([1]))


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@torch.no_grad()
def theirs(model, told, steps, runs):
    pass_s, image_s = float("inf"), float("inf")
    for run in range(runs):
        noise = torch.randn((1, 3, *model.shape), generator=torch.Generator().manual_seed(run))
        pass_s = min(pass_s, timed(lambda: model(noise, torch.zeros(1), **told)))
        image_s = min(image_s, timed(lambda: network.sample(model, noise, told, steps, 1.5)))
    return {"pass_s": pass_s, "image_s": image_s}


def ours(program, which, steps, runs, folder):
    """A pass is a step without guidance: one row through the network, and the Euler step behind it."""
    folders = [] if which == "demo" else ["--manifests", str(folder), "--weights", str(folder)]
    release = "demo-tryon" if which == "demo" else which
    environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS)}

    def steps_s(steps, guidance):
        command = [str(program), "model", *folders, "bench", release, "--json", "--quality", "best"]
        command += ["--steps", str(steps), "--guidance", str(guidance)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)["steps_s"]

    return {"pass_s": min(steps_s(1, 1) for _ in range(runs)), "image_s": min(steps_s(steps, 1.5) for _ in range(runs))}


def compare(which, turns, program):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = network.load(DEMO / "demo.safetensors") if which == "demo" else slice_release(folder)
        told, steps, runs = conditions(model), STEPS[which], {"demo": 3, "slice": 1}[which]
        sides = {"kraftr": [], "torch": []}
        for _ in range(turns):
            sides["torch"].append(theirs(model, told, steps, runs))
            sides["kraftr"].append(ours(program, which, steps, runs, folder))
    best = {side: {key: min(turn[key] for turn in of) for key in of[0]} for side, of in sides.items()}
    ratio = {key: round(best["kraftr"][key] / best["torch"][key], 3) for key in best["torch"]}
    return {"steps": steps, **best, "ratio": ratio, "turns": sides}


def main():
    which, turns = [*sys.argv[1:], "both", "3"][:1][0], int([*sys.argv[2:], "3"][0])
    if which not in ("demo", "slice", "both") or len(sys.argv) > 3:
        say(__doc__)
        return 2
    torch.set_num_threads(THREADS)
    program = built()
    wanted = ["demo", "slice"] if which == "both" else [which]
    report = {name: compare(name, turns, program) for name in wanted}
    print(json.dumps({"bench": "network", "threads": THREADS, "torch": torch.__version__, **report}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
