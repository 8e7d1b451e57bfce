"""The adversarial stage: who learns from what, and what a step adds up to."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from synthmed.generators.diffusion.config import VaeConfig
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder, split_moments
from synthmed.generators.diffusion.networks.discriminator import Discriminator
from synthmed.generators.diffusion.training.adversarial import AdversarialStep
from synthmed.generators.diffusion.training.config import AdversarialConfig
from synthmed.generators.diffusion.training.losses import (
    adaptive_weight,
    add_up,
    hinge_loss,
    kl_divergence,
    reconstruction_loss,
    reconstruction_losses,
    resize_targets,
)
from synthmed.runtime.processes import Processes
from synthmed.training.draw import Draw
from synthmed.training.updates import set_gradients

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


def run(step, index=0):
    """Return what each update of a step gives: loss and parts of the autoencoder, then of the discriminators."""
    draw = Draw(3, index, len(BATCH[0]), Processes())
    return [update.loss(BATCH, draw) for update in step.updates(CONFIG)]


def gradients(module, loss):
    module.zero_grad()
    loss.backward(retain_graph=True)
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def summed_loss(step, index=0):
    """Return both sides' losses as one sum: what each sees of the other is constant or detached."""
    images, moments, outputs = step.reconstruct(BATCH, Draw(3, index, len(BATCH[0]), Processes()))
    targets = resize_targets(images, outputs, "area")
    losses, _ = reconstruction_losses(outputs, targets, step.config, None)
    hinges = []
    for number, (discriminator, head) in enumerate(zip(step.discriminators, step.network.heads, strict=True)):
        pair = torch.cat([targets[number], outputs[number].detach()])
        hinges.append(hinge_loss(*discriminator(pair).chunk(2)))
        constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        adversarial = -torch.func.functional_call(discriminator, constants, (outputs[number],)).mean()
        weight = adaptive_weight(losses[number], adversarial, head.conv.weight, lambda x: x)
        losses[number] = losses[number] + step.config.adversarial_weight * weight * adversarial
    total, _ = add_up(losses, *split_moments(moments), images[0].numel(), step.config)
    return total + torch.stack(hinges).sum()


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


def test_each_side_gets_the_gradient_of_its_own_loss_alone():
    """Update by update, the gradients are those of one sum in which each side is constant for the other."""
    step = build()
    wanted = gradients(step, summed_loss(step))
    step.zero_grad(set_to_none=True)
    draw = Draw(3, 0, len(BATCH[0]), Processes())
    network, discriminators = step.updates(CONFIG)
    set_gradients(network.loss(BATCH, draw)[0], network.module, math.inf, Processes())
    assert all(parameter.grad is None for parameter in step.discriminators.parameters())
    of_network = {name: parameter.grad.clone() for name, parameter in step.network.named_parameters()}
    set_gradients(discriminators.loss(BATCH, draw)[0], discriminators.module, math.inf, Processes())
    for name, parameter in step.named_parameters():
        assert parameter.grad is not None and wanted[name] is not None, name
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-5, atol=1e-7, msg=name)
    for name, parameter in step.network.named_parameters():
        assert torch.equal(parameter.grad, of_network[name])
    for name in ("network.inc.block_seq.0.conv_res.weight", *(f"discriminators.{n}.inc.conv.weight" for n in range(2))):
        assert wanted[name].any(), name


def test_discriminators_judge_what_the_weights_of_the_steps_beginning_made():
    step = build()
    draw = Draw(3, 0, len(BATCH[0]), Processes())
    network, discriminators = step.updates(CONFIG)
    network.loss(BATCH, draw)
    wanted = discriminators.loss(BATCH, draw)[0]
    with torch.no_grad():
        for parameter in step.network.parameters():
            parameter.add_(1)
    assert torch.equal(discriminators.loss(BATCH, draw)[0], wanted)


def test_step_adds_up_to_the_published_loss():
    """Written out for both outputs: reconstruction, judgement with its weight, deep supervision, KL and hinge."""
    step = build(adversarial_weight=0.7)
    (loss, parts), (judged, judged_parts) = run(step)
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
    torch.testing.assert_close(judged, hinges)
    torch.testing.assert_close(judged_parts["discriminator"], hinges)
    torch.testing.assert_close(loss, wanted)


def test_judgement_counts_from_its_start_on_and_is_learnt_before():
    step = build(start_step=5)
    (_, parts), (judged, _) = run(step, 4)
    assert "adversarial" not in parts
    assert all(gradients(step, judged)[f"discriminators.{n}.inc.conv.weight"].any() for n in range(2))
    assert run(step, 5)[0][1]["adversarial"] != 0


def test_discriminators_learn_at_their_own_rate():
    updates = build(discriminator_lr=0.25).updates(dataclasses.replace(CONFIG, lr=0.5))
    assert [(update.name, update.lr, update.every) for update in updates] == [
        ("network", 0.5, 1),
        ("discriminators", 0.25, 1),
    ]


def test_discriminator_learns_to_tell_real_from_blurred():
    """A few steps against an autoencoder that stays as it is."""
    step = build()
    optimizer = torch.optim.Adam(step.discriminators.parameters(), lr=1e-2)
    losses = []
    for index in range(15):
        _, (loss, _) = run(step, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 1.5 < losses[0]


@pytest.mark.parametrize("deep", [0, 1, 2])
def test_every_output_has_a_discriminator(deep):
    step = AdversarialStep(Autoencoder(dataclasses.replace(VAE, deep_supervision=deep)), CONFIG, None, Processes())
    assert len(step.discriminators) == deep + 1
    assert all(torch.isfinite(loss) for loss, _ in run(step))
