"""The table of paths: what it says of each CPU, and the numbers and bits of each path at each instruction set."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import minitrans
from minitrans import cpu, ops, plain
from minitrans.cpu import NEVER, Cpu, Rule

ZEN4 = Cpu("AuthenticAMD", True, True, False)
ZEN2 = Cpu("AuthenticAMD", False, False, False)
SAPPHIRE_RAPIDS = Cpu("GenuineIntel", True, True, True)
HASWELL = Cpu("GenuineIntel", False, False, False)
OTHER = Cpu("", False, False, False)
ALWAYS = (Rule(0, torch.float32), Rule(0, torch.bfloat16))
# The tolerances of a product and a GELU of 64 terms around 1, against float64.
BUDGET = {"float32": 2e-6, "bfloat16": 1e-2}


@pytest.mark.parametrize(
    ("this", "dtype", "inputs", "rows"),
    [
        (ZEN4, torch.float32, 96, 1),
        (ZEN2, torch.float32, 768, 1),
        (ZEN2, torch.float32, 512, 1),
        (ZEN2, torch.float32, 511, NEVER),
        (SAPPHIRE_RAPIDS, torch.float32, 768, 64),
        (HASWELL, torch.float32, 768, NEVER),
        (OTHER, torch.float32, 768, NEVER),
        (SAPPHIRE_RAPIDS, torch.bfloat16, 96, 64),
        (ZEN4, torch.float64, 768, NEVER),
        (ZEN4, torch.float16, 768, NEVER),
    ],
)
def test_the_table(this, dtype, inputs, rows, monkeypatch):
    monkeypatch.setattr(cpu, "this_cpu", lambda: this)
    monkeypatch.setattr(cpu, "packs", lambda dtype: dtype in (torch.float32, torch.bfloat16))
    with cpu.table(*cpu.TABLE):  # forgets what it knew of this machine
        assert cpu.onednn_from(dtype, inputs) == rows
    monkeypatch.setattr(cpu, "packs", lambda dtype: False)
    with cpu.table(*cpu.TABLE):
        assert cpu.onednn_from(dtype, inputs) == NEVER


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("this", [ZEN4, ZEN2, SAPPHIRE_RAPIDS, HASWELL, OTHER])
def test_what_is_packed_when_a_model_is_frozen(this, dtype, monkeypatch):
    """Everything, but in float32 on Intel's CPUs without AVX-512; the numbers are a copy's in either order."""
    monkeypatch.setattr(cpu, "this_cpu", lambda: this)
    monkeypatch.setattr(cpu, "packs", lambda dtype: True)
    monkeypatch.setattr(cpu, "packed", lambda weight: weight.detach().to_mkldnn())
    weight = torch.nn.Parameter(torch.randn(6, 4, dtype=dtype))
    packed = ops.prepacked(weight)
    assert packed.is_mkldnn == (this != HASWELL or dtype == torch.bfloat16)
    expected = weight.detach().clone()
    weight.detach().zero_()
    assert torch.equal(packed.to_dense(), expected)
    assert not packed.requires_grad


@pytest.mark.parametrize(("this", "gelu"), [(ZEN4, "gelu"), (SAPPHIRE_RAPIDS, "gelu"), (ZEN2, None), (HASWELL, None)])
def test_what_is_computed_with_the_product(this, gelu, monkeypatch):
    monkeypatch.setattr(cpu, "this_cpu", lambda: this)
    found = {name: cpu.epilogue(name) for name in plain.ACTIVATIONS}
    assert {name: each for name, each in found.items() if each} == {
        "relu": "relu", "linear": "none", **({"gelu": gelu, "gelu_python": gelu} if gelu else {}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("isa", "vectors", "found"),
    [
        (None, "AVX512", (True, True, True)), (None, "AVX2", (False, False, False)),
        ("", "AVX512", (True, True, True)), ("ALL", "AVX512", (True, True, True)),
        ("AVX2", "AVX512", (False, False, False)), ("AVX2_VNNI_2", "AVX512", (False, False, False)),
        ("avx512_core", "AVX512", (True, False, False)), ("AVX512_CORE_VNNI", "AVX512", (True, False, False)),
        ("AVX512_CORE_BF16", "AVX512", (True, True, False)), ("AVX512_CORE_FP16", "AVX512", (True, True, False)),
        ("AVX10_1_512_AMX", "AVX512", (True, True, True)), ("AVX512_CORE_AMX", "AVX512", (True, True, True)),
        ("AVX512_CORE_AMX", "AVX2", (False, False, False)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has", [(True, True), (True, False), (False, True), (False, False)])
def test_instruction_sets_are_what_the_machine_has_and_the_environment_allows(isa, vectors, found, has, monkeypatch):
    """oneDNN's levels, each with those before it; what torch itself is held to counts as well."""
    if isa is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has[1])
    this = cpu.this_cpu.__wrapped__()
    assert (this.avx512, this.avx512_bf16, this.amx) == (found[0], found[1] and has[0], found[2] and has[1])


def test_the_vendor_is_the_cpus_own_word(monkeypatch):
    """Linux and Windows repeat it, each in its way; elsewhere, and where nobody says, there is none."""

    def vendor(platform, text=None):
        def read_text(path, **options):
            if text is None:
                raise FileNotFoundError
            return text

        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(Path, "read_text", read_text)
        return cpu.this_cpu.__wrapped__().vendor

    assert vendor("linux", "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC: 9\n") == "AuthenticAMD"
    assert vendor("linux", "processor\t: 0\nCPU implementer\t: 0x41\n") == ""
    assert vendor("darwin") == ""
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel")
    assert vendor("win32") == "GenuineIntel"
    monkeypatch.delenv("PROCESSOR_IDENTIFIER")
    assert vendor("win32") == ""


@pytest.mark.parametrize(("here", "narrow"), [(True, True), (True, False), (False, True)])
def test_dtypes_are_packed_where_onednn_computes_in_them(here, narrow, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: here)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: narrow)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    assert [cpu.packs.__wrapped__(dtype) for dtype in dtypes] == [here, here and narrow, False, False]


def test_rows_are_matched_by_vendor_and_vectors():
    rule = Rule(8, torch.float32, "GenuineIntel", avx512=False, inputs=64)
    assert rule.holds(HASWELL, torch.float32, 64)
    assert not rule.holds(HASWELL, torch.float32, 63)
    assert not rule.holds(SAPPHIRE_RAPIDS, torch.float32, 64)
    assert not rule.holds(ZEN4, torch.float32, 64)
    assert not rule.holds(HASWELL, torch.bfloat16, 64)


def onednn_calls(monkeypatch):
    """The row counts of the products that oneDNN computes from here on."""
    calls, own = [], cpu.linear
    monkeypatch.setattr(cpu, "linear", lambda x, *others: (calls.append(x.shape[0]), own(x, *others))[1])
    return calls


def test_the_table_chooses_the_product(monkeypatch):
    calls = onednn_calls(monkeypatch)
    weight, bias = torch.randn(6, 4), torch.randn(6)
    with torch.no_grad():
        for rows, expected in (((), []), (ALWAYS, [3, 5]), ((Rule(4, torch.float32),), [5])):
            calls.clear()
            with cpu.table(*rows):
                for count in (3, 5):
                    ops.linear(torch.randn(count, 4), weight, bias)
            assert calls == expected
        calls.clear()
        packed = cpu.packed(weight)
        with cpu.table():  # a packed weight is oneDNN's whatever the table says
            ops.linear(torch.randn(1, 4), packed, bias)
        assert calls == [1]
        with pytest.raises(ZeroDivisionError), cpu.table():
            _ = 1 / 0
        assert cpu._table is cpu.TABLE


def paths() -> dict[str, dict[str, float | bool]]:
    """The error against float64 of every path on this machine, relative to the largest value; whether bits repeat."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(70, 64), torch.randn(96, 64) / 8, torch.randn(96)
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
    qkv, table, padding = torch.randn(2, 9, 7, 3, 2, 8), torch.randn(49, 2), torch.randn(3, 2, 8)
    in_windows = plain.window_attention_with_weights(qkv.double(), table.double(), 4, 2, padding.double(), 0.0)[0]
    found: dict[str, dict[str, float | bool]] = {}

    def note(name: str, run, expected: torch.Tensor) -> None:
        first, again = run(), run()
        error = float((first.double() - expected).abs().max() / expected.abs().max())
        found[name] = {"error": error, "repeats": torch.equal(first, again)}

    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        given = [tensor.to(dtype) for tensor in (x, weight, bias)]
        for path, rows in (("torch", ()), ("onednn", ALWAYS)):
            with cpu.table(*rows):
                note(f"{path} {name}", lambda given=given: plain.linear(*given, "gelu"), exact)
        if cpu.packs(dtype):
            order = cpu.packed(given[1])
            note(f"packed {name}", lambda given=given, o=order: plain.linear(given[0], o, given[2], "gelu"), exact)
        maps = [tensor.to(dtype) for tensor in (qkv, table)]
        filling = padding.to(dtype)
        note(f"windows {name}", lambda m=maps, f=filling: ops.window_attention(*m, 4, 2, f), in_windows)
        note(
            f"windows by weights {name}",
            lambda m=maps, f=filling: ops.window_attention_with_weights(*m, 4, 2, f)[0],
            in_windows,
        )
    return found


TEXT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZES = {
    "Bert": TEXT,
    "DistilBert": {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "Swin": {"image_size": 30, "patch_size": 2, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4],
             "window_size": 4},
    "Wav2Vec2": {**TEXT, "conv_dim": (32,) * 3, "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2),
                 "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
}  # fmt: skip


def models() -> dict[str, dict[str, float | bool]]:
    """The error of every family against float64, ‖difference‖ / ‖output‖, loaded and frozen; whether bits repeat."""
    found: dict[str, dict[str, float | bool]] = {}
    mask = (torch.arange(9) < torch.tensor([9, 5, 1])[:, None]).long()
    for family, sizes in SIZES.items():
        torch.manual_seed(0)
        model = getattr(minitrans, f"{family}Model")(getattr(minitrans, f"{family}Config")(**sizes)).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        inputs = {
            "input_ids": {"input_ids": torch.randint(60, (3, 9)), "attention_mask": mask},
            "pixel_values": {"pixel_values": torch.randn(2, 3, 30, 30)},
            "input_values": {"input_values": torch.randn(2, 1200)},
        }[model.main_input_name]

        def run(model: torch.nn.Module, dtype: torch.dtype, inputs=inputs) -> torch.Tensor:
            return model(**{name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()})[0]

        exact = run(copy.deepcopy(model).double(), torch.float64)
        for dtype in (torch.float32, torch.bfloat16):
            loaded = copy.deepcopy(model).to(dtype)
            for form, subject in (("", loaded), (" frozen", loaded.freeze() if cpu.packs(dtype) else loaded)):
                first, again = run(subject, dtype), run(subject, dtype)
                error = float((first.double() - exact).norm() / exact.norm())
                found[f"{family}{form} {str(dtype)[6:]}"] = {"error": error, "repeats": torch.equal(first, again)}
    return found


LEVELS = [
    ({}, None),
    ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, False),
    ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, False),
    ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, False),
    ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, None),
]


@pytest.mark.parametrize(("environment", "native"), LEVELS, ids=[str(next(iter(e.values()), "")) for e, _ in LEVELS])
def test_each_instruction_set(environment, native):
    """The lower ones are told to oneDNN, torch and MKL, which read them when they start."""
    code = (
        "import json, dataclasses, torch; from test_cpu import models, paths; from minitrans import cpu\n"
        "with torch.no_grad(): print(json.dumps([dataclasses.asdict(cpu.this_cpu()), cpu.packs(torch.bfloat16),"
        " cpu.this_cpu().fast_in_bfloat16, paths(), models()]))"
    )
    folder = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([folder, *sys.path])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    this, packs, fast, found, whole = json.loads(run.stdout)
    assert native is None or fast is native
    assert not fast or packs  # what is fast in bfloat16 can be frozen in it
    assert this["vendor"] == cpu.this_cpu().vendor
    assert this["avx512"] <= cpu.this_cpu().avx512
    if "avx2" in environment.values() or "default" in environment.values():
        assert not this["avx512"]
        assert not packs
    assert ("packed bfloat16" in found) is packs
    for name, path in found.items():
        assert path["error"] <= BUDGET[name.split()[-1]], name
        assert path["repeats"], name
    for name, path in whole.items():
        assert path["error"] <= {"float32": 3e-6, "bfloat16": 2e-2}[name.split()[-1]], name
        assert path["repeats"], name


def test_bfloat16_is_fast_only_where_it_is_multiplied():
    assert ZEN4.fast_in_bfloat16
    assert SAPPHIRE_RAPIDS.fast_in_bfloat16
    assert not HASWELL.fast_in_bfloat16
    assert not Cpu("GenuineIntel", True, False, False).fast_in_bfloat16


@pytest.mark.parametrize(
    ("shape", "window", "shift"),
    [
        ((1, 4, 4), 4, 0),
        ((2, 8, 8), 4, 2),
        ((2, 9, 7), 4, 1),
        ((1, 3, 12), 4, 2),
        ((3, 12, 4), 4, 3),
        ((1, 2, 2), 4, 2),
    ],
)
@pytest.mark.parametrize("filled", [True, False])
def test_windows_by_torchs_attention_are_those_by_weights(shape, window, shift, filled):
    """Maps of one window and of one row or column of them too, where some kinds of windows are absent."""
    torch.manual_seed(0)
    qkv = torch.randn(*shape, 3, 2, 5, dtype=torch.float64)
    table = torch.randn((2 * window - 1) ** 2, 2, dtype=torch.float64)
    padding = torch.randn(3, 2, 5, dtype=torch.float64) if filled else None
    expected, weights = ops.window_attention_with_weights(qkv, table, window, shift, padding)
    assert weights.sum(-1).sub(1).abs().max() < 1e-12
    torch.testing.assert_close(ops.window_attention(qkv, table, window, shift, padding), expected)
    # With a gradient, and with dropout, it is the explicit products.
    learnt = ops.window_attention(qkv, table.requires_grad_(), window, shift, padding)
    torch.testing.assert_close(learnt, expected)
    (gradient,) = torch.autograd.grad(learnt.square().sum(), table)
    assert gradient.abs().max() > 0
    torch.manual_seed(1)
    dropped = ops.window_attention(qkv, table.detach(), window, shift, padding, dropout=0.5)
    assert not torch.allclose(dropped, expected)
