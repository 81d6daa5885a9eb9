import pytest
import torch
import torch.nn.functional as F
from minitrans.kernels.convolution import convolution, why_not
from transformers.models.wav2vec2.configuration_wav2vec2 import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GroupNormConvLayer


def torch_convolution(rows, weight, bias, stride, activation):
    y = F.conv1d(rows.T[None], weight.transpose(1, 2), bias, stride)[0].T
    return F.gelu(y) if activation == "gelu" else y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("samples", "channels", "taps", "stride"),
    [(10, 24, 10, 5), (400, 64, 10, 5), (325, 80, 10, 5), (330, 512, 10, 5), (70, 40, 3, 2), (64, 16, 16, 1)],
)
@pytest.mark.parametrize("activation", ["gelu", "linear"])
@pytest.mark.parametrize("biased", [False, True])
def test_convolution(samples, channels, taps, stride, activation, biased, dtype, check):
    rows, weight = torch.randn(samples, 1).to(dtype), torch.randn(channels, taps, 1).to(dtype)
    bias = torch.randn(channels).to(dtype) if biased else None
    assert why_not(rows, weight, bias, stride, 1, activation) is None
    out = convolution(rows, weight, bias, stride, 1, activation)
    exact = torch_convolution(
        rows.double(), weight.double(), None if bias is None else bias.double(), stride, activation
    )
    check(out, torch_convolution(rows, weight, bias, stride, activation), exact)


@pytest.mark.parametrize(("offset", "size"), [(0.0, 1.0), (100.0, 1.0), (0.0, 1e-6)])
def test_group_norm_in_the_filter_against_transformers(offset, size):
    """The statistics come from the windows' mean and covariance, in float64, of samples without their mean."""
    layer = Wav2Vec2GroupNormConvLayer(Wav2Vec2Config(conv_dim=(24,) * 7)).double()
    torch.nn.init.normal_(layer.layer_norm.weight)
    torch.nn.init.normal_(layer.layer_norm.bias)
    samples = (offset + size * torch.randn(403)).double()
    with torch.no_grad():
        expected = layer(samples[None, None])[0].T
        samples = samples - samples.mean()
        windows, filters = samples.unfold(0, 10, 5), layer.conv.weight[:, 0]
        mean, covariance = windows.mean(0), windows.T.cov(correction=0)
        gain = layer.layer_norm.weight / ((filters @ covariance * filters).sum(1) + layer.layer_norm.eps).sqrt()
        bias = layer.layer_norm.bias - gain * (filters @ mean)
        weight = (gain[:, None] * filters)[..., None]
        out = convolution(samples.float()[:, None], weight.float(), bias.float(), 5, 1, "gelu")
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-5)


def test_compiles_into_one_graph():
    rows, weight = torch.randn(40, 1), torch.randn(8, 10, 1)

    def layer(rows):
        return convolution(rows, weight, None, 5, 1, "gelu") * 2

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows), layer(rows))


@pytest.mark.parametrize(
    ("weight", "dilation", "activation", "reason"),
    [
        (torch.zeros(8, 10, 2), 1, "gelu", "one channel"),
        (torch.zeros(8, 17, 1), 1, "gelu", "16 taps"),
        (torch.zeros(8, 10, 1), 2, "gelu", "dilation"),
        (torch.zeros(8, 10, 1), 1, "relu", "'relu'"),
        (torch.zeros(8, 10, 1).half(), 1, "gelu", "dtypes"),
        (torch.zeros(8, 10, 1, requires_grad=True), 1, "gelu", "gradient"),
    ],
)
def test_why_not(weight, dilation, activation, reason):
    assert reason in why_not(torch.zeros(40, 1), weight, None, 5, dilation, activation)


def test_each_clip_may_have_filters_of_its_own(check):
    rows, weight, bias = torch.randn(3, 500, 1), torch.randn(3, 70, 10, 1), torch.randn(3, 70)

    def alone(dtype):
        clips = [(x.to(dtype) for x in clip) for clip in zip(rows, weight, bias, strict=True)]
        return torch.stack([F.gelu(F.conv1d(x.T, w.mT, b, 5).T) for x, w, b in clips])

    assert why_not(rows, weight, bias, 5, 1, "gelu") is None
    check(convolution(rows, weight, bias, 5, 1, "gelu"), alone(torch.float32), alone(torch.float64))
    assert "3 filters for 2 clips" in why_not(rows[:2], weight, bias, 5, 1, "gelu")
    assert "bias is (70,), not (3, 70)" in why_not(rows, weight, bias[0], 5, 1, "gelu")


def test_inputs_in_any_layout():
    """Samples that are a column, filters that are every second one, a bias that is a column."""
    rows, weight = torch.randn(400, 2)[:, 1:], torch.randn(16, 10, 2)[::2, :, :1]
    bias = torch.randn(8, 3)[:, 1]
    kept = rows.contiguous(), weight.contiguous(), bias.contiguous()
    assert why_not(rows, weight, bias, 5, 1, "gelu") is None
    expected = torch_convolution(*kept, 5, "gelu")
    for given in ((rows, *kept[1:]), (kept[0], weight, kept[2]), (*kept[:2], bias), (rows, weight, bias)):
        torch.testing.assert_close(convolution(*given, 5, 1, "gelu"), expected)
