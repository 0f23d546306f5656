import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from lvae_min.model import VAE, layers
from lvae_min.products import Conv, ConvTransposed, Linear, PixelLinear


def test_the_import_calls_exp_before_threads_can():
    program = """if True:
        import torch
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            import lvae_min.model
        print(*(event.key for event in seen.key_averages()))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "aten::exp" in done.stdout.split(), done.stderr


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_network_is_float32_and_takes_floats_of_any_precision(network, monkeypatch):
    before = VAE((3, 64, 64), 5, network)
    torch.set_default_dtype(torch.float64)
    try:
        vae = VAE((3, 64, 64), 5, network)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(before.parameters(), vae.parameters(), strict=True))
    x, z = torch.rand(2, 3, 64, 64).half(), torch.randn(2, 5).half()
    expected = *vae.encode(x.float()), vae.decode(z.float())
    for dtype in (torch.float16, torch.float64):
        found = *vae.encode(x.to(dtype)), vae.decode(z.to(dtype))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def weights(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "latents, encoder, total",
    [(5, 6_369_610, 12_737_306), (7, 6_374_414, 12_744_510), (9, 6_379_218, 12_751_714)],
)
def test_mlp_has_the_weights_of_table_1(latents, encoder, total):
    vae = VAE((1, 64, 64), latents, "mlp", binary=True)
    assert (weights(vae.encoder), weights(vae)) == (encoder, total)


@pytest.mark.parametrize(
    "size, latents, encoder, total",
    [
        (64, 5, 149_546, 529_645),
        (64, 7, 149_678, 530_289),
        (64, 9, 149_810, 530_933),
        (128, 9, 163_634, 298_997),
        (128, 10, 165_236, 300_855),
        (128, 32, 200_480, 341_731),
    ],
)
def test_cnn_has_the_weights_of_table_1(size, latents, encoder, total):
    vae = VAE((3, size, size), latents)
    assert (weights(vae.encoder), weights(vae)) == (encoder, total)


@pytest.mark.parametrize(
    "network, shape", [("mlp", (1, 64, 64)), ("cnn", (3, 64, 64)), ("cnn", (3, 128, 128))]
)
def test_logits_have_the_shape_of_the_images(network, shape):
    logits, mu, logvar = VAE(shape, 6, network)(torch.rand(2, *shape), torch.zeros(2, 6))
    assert logits.shape == (2, *shape) and mu.shape == logvar.shape == (2, 6)


def test_no_layer_but_the_hidden_ones_is_rectified():
    for vae in (VAE((1, 64, 64), 5, "mlp"), VAE((3, 64, 64), 5)):
        logits, mu, _ = vae(torch.rand(8, *vae.shape), torch.randn(8, 5))
        assert logits.min() < 0 < logits.max() and mu.min() < 0 < mu.max()


def test_first_layer_on_bits_equals_the_matrix_product_in_value_and_gradient():
    x = (torch.rand(7, 300, generator=torch.Generator().manual_seed(0)) < 0.1).byte()
    x[3] = 0  # an image without a white pixel
    layer = PixelLinear(300, 11).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    sparse, dense = layer(x), x.double() @ layer.weight + layer.bias
    weigh = torch.randn(7, 11, dtype=torch.float64)
    assert torch.allclose(sparse, dense)
    for one, other in zip(
        torch.autograd.grad((sparse * weigh).sum(), (layer.weight, layer.bias)),
        torch.autograd.grad((dense * weigh).sum(), (layer.weight, layer.bias)),
        strict=True,
    ):
        assert torch.allclose(one, other)


def test_weights_follow_from_their_generator_and_leave_the_global_one_alone():
    state = torch.random.get_rng_state()
    one, other = VAE((3, 64, 64), 5), VAE((3, 64, 64), 5)
    other.reset(torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(one.encoder[0].weight, other.encoder[0].weight)
    other.reset(torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("network, shape", [("mlp", (1, 64, 64)), ("cnn", (3, 64, 64))])
def test_weights_are_spread_as_pytorch_spreads_them(network, shape):
    ours = VAE(shape, 5, network)
    for layer in ours.modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            spread = layer.weight.std()
            layer.reset_parameters()
            assert abs(layer.weight.std() / spread - 1) < 0.1


def test_weights_of_the_first_layer_are_spread_over_its_pixels():
    layer = VAE((1, 64, 64), 5, "mlp", binary=True).encoder[1]
    for weights in (layer.weight, layer.bias):
        assert 0.9 / 64 < weights.abs().max() <= 1 / 64


def test_noise_is_scaled_by_the_standard_deviation():
    vae = VAE((1, 64, 64), 2, "mlp")
    x, noise = torch.rand(3, 1, 64, 64), torch.randn(3, 2)
    logits, mu, logvar = vae(x, noise)
    assert torch.allclose(logits.sigmoid(), vae.decode(mu + torch.sqrt(logvar.exp()) * noise), atol=1e-6)


@pytest.mark.parametrize("network, binary", [("mlp", True), ("mlp", False), ("cnn", False)])
def test_encode_takes_numbers_of_any_type_from_0_to_1_but_for_bytes(network, binary):
    vae, bits = VAE((1, 64, 64), 5, network, binary), np.random.default_rng(0).integers(0, 2, (3, 1, 64, 64))
    expected = vae.encode(bits.astype(np.float32))[0]
    for dtype in (bool, np.int64, np.int32, np.uint16, np.float64):
        assert torch.allclose(vae.encode(bits.astype(dtype))[0], expected, atol=1e-6), dtype


def test_encode_reads_bytes_and_floats_alike():
    bytes_ = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    vae = VAE((3, 64, 64), 4)
    assert torch.allclose(vae.encode(bytes_)[0], vae.encode(bytes_ / 255)[0], atol=1e-6)
    bits, vae = (bytes_[:, :1] > 200).byte(), VAE((1, 64, 64), 4, "mlp", binary=True)
    assert torch.allclose(vae.encode(bits)[0], vae.encode(bits.float())[0], atol=1e-6)


@pytest.mark.parametrize("side, first", [(64, 0), (128, 1)])
def test_the_convolutions_are_those_of_table_1(side, first):
    """4 x 4 with a stride of 2 and a padding of 1, but for the encoder's last and the decoder's first."""
    vae = VAE((3, side, side), 5)
    forms = [
        [(*layer.kernel_size, *layer.stride, *layer.padding) for layer in half if hasattr(layer, "stride")]
        for half in (vae.encoder, vae.decoder)
    ]
    halving = (4, 4, 2, 2, 1, 1)
    assert forms == [[halving] * 4 + [(4, 4, 1, 1, 0, 0)], [(4, 4, 2, 2, first, first)] + [halving] * 4]


def test_the_smallest_networks_are_made():
    for vae in (VAE((1, 1, 1), 1, "mlp"), VAE((1, 64, 64), 1)):
        assert vae.decode(torch.zeros(1, 1)).shape == (1, *vae.shape)


def test_a_network_is_made_again_of_its_settings():
    vae = VAE((1, 8, 8), 3, "mlp", binary=True)
    assert vae.settings == {"shape": [1, 8, 8], "latents": 3, "network": "mlp", "binary": True}
    assert VAE((3, 64, 64), 2).settings == {**VAE((3, 64, 64), 2, "cnn", False).settings}


def test_stored_images_take_the_type_of_the_weights():
    bytes_ = torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8)
    for vae, x in ((VAE((1, 64, 64), 4), bytes_), (VAE((1, 64, 64), 4, "mlp", binary=True), bytes_ % 2)):
        assert vae.double().encode(x)[0].dtype == vae.encode(x.double() * vae.scale)[0].dtype == torch.float64


@pytest.mark.parametrize(
    "shape, latents, network, message",
    [
        ((3, 65, 65), 5, "cnn", r"image shape \(3, 65, 65\): the cnn takes .* with H = W, 64 or 128"),
        ((3, 64, 128), 5, "cnn", r"image shape \(3, 64, 128\): .*"),
        ((3, 128, 64), 5, "cnn", r"image shape \(3, 128, 64\): .*"),
        ((64, 64), 5, "cnn", r"image shape \(64, 64\): .*"),
        ((3, 8, 9), 5, "mlp", r"image shape \(3, 8, 9\): the mlp takes \(C, H, W\) with H = W"),
        ((3, 64, 64), 0, "cnn", r"latents 0, image shape \(3, 64, 64\): at least 1"),
        ((0, 8, 8), 5, "mlp", r"latents 5, image shape \(0, 8, 8\): at least 1"),
        ((1, 64, 64), 5, "rnn", "network 'rnn': expected mlp or cnn"),
    ],
)
def test_a_network_that_is_not_in_table_1_is_refused(shape, latents, network, message):
    with pytest.raises(ValueError) as error:
        VAE(shape, latents, network)
    assert re.fullmatch(message, str(error.value)), error.value


def test_images_at_the_ends_of_their_range_are_encoded_and_those_beyond_are_not():
    vae, cnn = VAE((1, 64, 64), 5, "mlp", binary=True), VAE((1, 64, 64), 5)
    for network, top in ((vae, 1), (cnn, 255)):
        for value in (0, top):
            network.encode(torch.full((1, 1, 64, 64), value, dtype=torch.uint8))
    for value in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match=f"images from {value:g} to {value:g}: expected 0 to 1"):
            cnn.encode(torch.full((1, 1, 64, 64), value))
    assert cnn.encode(torch.zeros(0, 1, 64, 64))[0].shape == (0, 5)


def test_bad_arguments_are_named():
    vae = VAE((1, 64, 64), 5, "mlp", binary=True)
    with pytest.raises(ValueError, match=r"expected \(N, 1, 64, 64\)"):
        vae.encode(torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="from 0 to 255: expected 0 to 1"):
        vae.encode(torch.full((1, 1, 64, 64), 255, dtype=torch.uint8).tril())
    with pytest.raises(ValueError, match=r"expected \(N, 5\)"):
        vae.decode(torch.zeros(1, 4))


@pytest.mark.parametrize(
    "network, shape", [("mlp", (1, 64, 64)), ("cnn", (3, 64, 64)), ("cnn", (3, 128, 128))]
)
def test_each_hidden_layer_is_followed_by_a_relu_and_nothing_else_is_between(network, shape):
    vae = VAE(shape, 5, network, binary=network == "mlp")
    for half in (vae.encoder, vae.decoder):
        kinds = [type(layer) for layer in half]
        kinds = [kind for kind in kinds if kind not in (torch.nn.Flatten, torch.nn.Unflatten)]
        hidden, activations = kinds[:-1:2], kinds[1::2]
        assert len(hidden) == len(activations) == (2 if network == "mlp" else 5)
        assert set(activations) == {torch.nn.ReLU}
        weighing = {PixelLinear, Linear, Conv, ConvTransposed}
        assert {*hidden, kinds[-1]} <= weighing


def test_only_a_binary_set_has_the_layer_that_sums_rows():
    """PixelLinear takes every pixel that is not 0 for 1."""
    for binary, kind in ((True, PixelLinear), (False, Linear)):
        assert type(VAE((3, 64, 64), 5, "mlp", binary).encoder[1]) is kind
    assert type(layers((1, 64, 64), 5, "mlp")[0][1]) is Linear


def test_without_a_name_the_network_is_the_convolutional_one():
    encoder, decoder = layers((3, 64, 64), 4)
    assert isinstance(encoder[0], Conv) and any(isinstance(layer, ConvTransposed) for layer in decoder)


def test_a_network_moves_to_the_device_that_is_named():
    vae = VAE((3, 64, 64), 4)
    vae.lay_out("meta")
    assert {weight.device.type for weight in vae.parameters()} == {"meta"}


def test_noise_is_drawn_where_none_is_given_and_arrays_are_taken_as_tensors():
    vae = VAE((1, 64, 64), 3, "cnn")
    images = torch.rand(2, 1, 64, 64)
    torch.manual_seed(0)
    noise = torch.randn(2, 3)
    torch.manual_seed(0)
    assert torch.equal(vae(images)[0], vae(images, noise)[0])
    assert torch.equal(vae.encode(images.numpy())[0], vae.encode(images)[0])
    assert torch.equal(vae.decode(noise.numpy()), vae.decode(noise))
