"""The adversarial stage: who learns from what, and what a step adds up to."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from synthmed.generators.diffusion.config import AdversarialConfig, VaeConfig
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.networks.discriminator import Discriminator
from synthmed.generators.diffusion.training.adversarial import AdversarialStep, judge
from synthmed.generators.diffusion.training.losses import (
    adaptive_weight,
    hinge_loss,
    kl_divergence,
    reconstruction_loss,
)
from synthmed.runtime.processes import Processes
from synthmed.training.task import Draw

VAE = VaeConfig(widths=(8, 8, 16), strides=(1, 2, 2), norm_groups=4)
CONFIG = AdversarialConfig(kl_weight=1e-2, deep_weight=0.5)
BATCH = [torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))]


def build(**changes):
    torch.manual_seed(0)
    step = AdversarialStep(Autoencoder(VAE), dataclasses.replace(CONFIG, **changes), None, Processes())
    # As they start, the discriminators know nothing: their last layer is zero.
    for discriminator in step.discriminators:
        torch.nn.init.normal_(discriminator.get_parameter("outc.conv.weight"), std=0.1)
    return step


def run(step, number=0):
    return step(BATCH, Draw(3, number, len(BATCH[0]), Processes()))


def gradients(module, loss):
    module.zero_grad()
    loss.backward(retain_graph=True)
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_discriminator_has_one_logit_a_patch_and_starts_undecided():
    logits = Discriminator(VAE)(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 1, 8, 8)
    assert not logits.any()


def test_discriminator_has_the_published_build():
    """Widths 64 to 512, strides 1, 2, 2, 2, under the published names."""
    found = {name: list(tensor.shape) for name, tensor in Discriminator(VaeConfig()).state_dict().items()}
    assert found["inc.conv.weight"] == [64, 3, 3, 3]
    assert [found[f"encoder.{number}.conv.weight"][0] for number in range(3)] == [128, 256, 512]
    assert found["outc.conv.weight"] == [1, 512, 3, 3]
    assert found.keys() == {
        *(f"{name}.{kind}" for name in ("inc.conv", "inc.norm", "outc.conv") for kind in ("weight", "bias")),
        *(f"encoder.{n}.{name}.{kind}" for n in range(3) for name in ("conv", "norm") for kind in ("weight", "bias")),
    }


def test_judgement_leaves_the_discriminator_untouched():
    discriminator = build().discriminators[0]
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    judged = judge(discriminator, images)
    assert torch.equal(judged, discriminator(images))
    judged.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_each_side_gets_the_gradient_of_its_own_loss_alone():
    """One backward pass of the sum gives each side what a pass of its own would."""
    step = build()
    loss, parts = run(step)
    both = gradients(step, loss)
    of_discriminators = gradients(step, parts["discriminator"])
    of_autoencoder = gradients(step, loss - parts["discriminator"])
    for name, gradient in both.items():
        mine, other = of_autoencoder, of_discriminators
        if name.startswith("discriminators."):
            mine, other = other, mine
        torch.testing.assert_close(gradient, mine[name], msg=name)
        assert other[name] is None or not other[name].any(), name
    for name in ("network.inc.block_seq.0.conv_res.weight", *(f"discriminators.{n}.inc.conv.weight" for n in range(2))):
        assert both[name].any(), name


def test_step_adds_up_to_the_published_loss():
    """Written out for both outputs: reconstruction, judgement with its weight, deep supervision, KL and hinge."""
    step = build(adversarial_weight=0.7)
    loss, parts = run(step)
    images, moments, outputs = step.reconstruct(BATCH, Draw(3, 0, 4, Processes()))
    half = functional.avg_pool2d(images, 2)
    wanted, hinges = torch.zeros(()), torch.zeros(())
    for number, (output, target, weight) in enumerate(zip(outputs, (images, half), (1.0, 0.5), strict=True)):
        discriminator, layer = step.discriminators[number], step.network.heads[number].conv.weight
        reconstruction, _ = reconstruction_loss(output, target, step.config)
        adversarial = -discriminator(output).mean()
        adaptive = adaptive_weight(reconstruction, adversarial, layer, lambda x: x)
        assert 0 < adaptive < 1e4
        wanted = wanted + weight * (reconstruction + 0.7 * adaptive * adversarial)
        hinges = hinges + hinge_loss(discriminator(target), discriminator(output))
        if number == 0:
            torch.testing.assert_close(parts["adversarial"], adversarial)
            torch.testing.assert_close(parts["adaptive_weight"], adaptive)
    wanted = wanted + 1e-2 * kl_divergence(*moments.chunk(2, dim=1)).mean() / images[0].numel()
    torch.testing.assert_close(parts["discriminator"], hinges)
    torch.testing.assert_close(loss, wanted + hinges)


def test_judgement_counts_from_its_start_on_and_is_learnt_before():
    step = build(start_step=5)
    loss, parts = run(step, 4)
    assert "adversarial" not in parts
    assert all(gradients(step, loss)[f"discriminators.{n}.inc.conv.weight"].any() for n in range(2))
    assert run(step, 5)[1]["adversarial"] != 0


def test_discriminators_learn_at_their_own_rate():
    learners = build(discriminator_lr=0.25).learners(dataclasses.replace(CONFIG, lr=0.5))
    assert {name: rate for name, (_, rate) in learners.items()} == {"network": 0.5, "discriminators": 0.25}


def test_discriminator_learns_to_tell_real_from_blurred():
    """A few steps against an autoencoder that stays as it is."""
    step = build()
    optimizer = torch.optim.Adam(step.discriminators.parameters(), lr=1e-2)
    losses = []
    for number in range(15):
        _, parts = run(step, number)
        optimizer.zero_grad()
        parts["discriminator"].backward()
        optimizer.step()
        losses.append(parts["discriminator"].item())
    assert losses[-1] < 0.5 < 1.5 < losses[0]


@pytest.mark.parametrize("deep", [0, 1, 2])
def test_every_output_has_a_discriminator(deep):
    step = AdversarialStep(Autoencoder(dataclasses.replace(VAE, deep_supervision=deep)), CONFIG, None, Processes())
    assert len(step.discriminators) == deep + 1
    assert torch.isfinite(run(step)[0])
