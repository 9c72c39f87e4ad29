"""The try-on network in PyTorch on a GPU: the figure that `scripts/gpu-check bench` is measured against.

    python3 torch_cuda.py [--device cuda] [--dtype bf16] [--steps 30] [--runs 3] [--network full|demo]

Random weights, which take as long as trained ones. Eager, with the fused attention, RMS norm and complex rotation that
PyTorch has. Prints one line of JSON: seconds of one guided pass and of one image (guided steps but for the last), the
best of the runs, and the peak of the device's memory in bytes (null on a CPU).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "models" / "demo")]

import network  # noqa: E402

DEMO = dict(
    input_shape=[144, 96], hidden_size=192, n_heads=4, double_blocks_depth=2, single_blocks_depth=2, patch_size=6,
    axes_dim=[8, 20, 20], patch_mixer_depth=1,
)


def fused_norm(self, x):
    return F.rms_norm(x, x.shape[-1:], self.scale, 1e-6)


def complex_rotation(x, cos, sin):
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos.float(), sin.float())).flatten(-2).to(x.dtype)


network.Scale.forward = fused_norm
network.rotate = complex_rotation


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="bf16")
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--network", choices=["full", "demo"], default="full")
    a = arguments.parse_args()
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[a.dtype]
    device = torch.device(a.device)
    torch.manual_seed(0)
    model = network.TryOn(**(DEMO if a.network == "demo" else {})).eval()
    cos, sin = model.cos, model.sin
    model = model.to(device, dtype)
    # The tables stay in f32, as the reference has them.
    model.cos, model.sin = cos.to(device), sin.to(device)
    height, width = model.shape
    picture = torch.rand(1, 3, height, width, device=device, dtype=dtype) * 2 - 1
    nobody = torch.full((1, 1, height, width), -1.0, device=device, dtype=dtype)
    told = dict(ca_images=picture, garment_images=picture.flip(-1), person_poses=nobody, garment_poses=nobody,
                garment_categories=torch.tensor([1], device=device))
    noise = torch.randn(1, 3, height, width, device=device, dtype=dtype)
    on_gpu = device.type == "cuda"

    def timed(work):
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    times = torch.zeros(1, device=device, dtype=dtype)
    with torch.no_grad():
        one_pass = lambda: model.halves(noise, times, **told)
        image = lambda: network.sample(model, noise, told, a.steps, 1.5)
        one_pass()  # chooses kernels
        pass_s = min(timed(one_pass) for _ in range(a.runs))
        image_s = min(timed(image) for _ in range(a.runs))
    print(json.dumps({
        "torch": torch.__version__, "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "dtype": a.dtype, "steps": a.steps, "guided_pass_s": round(pass_s, 5), "image_s": round(image_s, 5),
        "memory_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }))


if __name__ == "__main__":
    main()
