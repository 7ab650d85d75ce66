"""A loss that is not finite ends the run, with the step and the layer that broke first."""

import copy
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from simplecnn.errors import RunError
from simplecnn.models.classifier import Classifier, steps_in_batch

EVERY_N_STEPS = 25  # of looking, at most; on a GPU what is seen is the state one look before
LOOKS_A_COPY = 4  # of the weights: it takes a millisecond


class FiniteLoss(Callback):
    """Looks at the sum of the training losses every 25 steps, and at everything after an epoch.

    On a GPU nobody waits for the number: it is on its way until the next look, so that a loss that
    is not finite is found after at most 50 steps. To find where it began, the steps since the last
    copy of the weights that was finite (one every 100 steps) are repeated one by one. Raises
    RunError.

    Places in an epoch are counted in steps, however many of them make a batch.
    """

    def __init__(self) -> None:
        self._copies: deque[Copy] = deque(maxlen=3)
        self._groups: deque[tuple[int, list[dict[str, Any]]]] = deque(
            maxlen=4 * LOOKS_A_COPY * EVERY_N_STEPS
        )
        self._place = 0
        self._on_its_way: tuple[Tensor, torch.cuda.Event] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._place = batch_idx * steps_in_batch(trainer)
        self._groups.append((self._place, _settings(trainer.optimizers[0])))

    def between_steps(self, trainer: Trainer, module: LightningModule) -> None:
        self._place += 1
        self._groups.append((self._place, _settings(trainer.optimizers[0])))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        looks, rest = divmod(batch_idx + 1, max(1, EVERY_N_STEPS // steps_in_batch(trainer)))
        if rest == 0:
            self._stop_unless(self._seen_to_be_finite(pl_module), trainer, pl_module)
            if looks % LOOKS_A_COPY == 0:
                self._copies.append(Copy(trainer, pl_module, self._place + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = [v for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/loss")]
        finite = all(math.isfinite(float(loss)) for loss in losses)
        finite = finite and _all_finite(pl_module.network.parameters())
        self._stop_unless(finite, trainer, pl_module)

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        self._copies.clear()
        self._groups.clear()
        self._on_its_way = None
        first = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        done = first if first < trainer.num_training_batches else 0
        self._place = done * steps_in_batch(trainer)
        self._copies.append(Copy(trainer, module, self._place))

    def _seen_to_be_finite(self, module: LightningModule) -> bool:
        total = training_loss_sum(module)
        if not total.is_cuda:
            return math.isfinite(float(total))
        before = self._on_its_way
        number = torch.empty((), dtype=total.dtype, pin_memory=True)
        number.copy_(total, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._on_its_way = (number, event)
        if before is None:
            return True
        before[1].synchronize()  # it happened 25 steps ago
        return math.isfinite(float(before[0]))

    def _stop_unless(self, finite: bool, trainer: Trainer, module: LightningModule) -> None:
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            raise RunError(self._sentence(trainer, module))

    def _sentence(self, trainer: Trainer, module: LightningModule) -> str:
        last = self._place
        found = None
        start = next((c for c in reversed(self._copies) if c.is_finite()), None)
        if start is not None:
            settings = dict(self._groups)
            found = first_break(trainer, module, start, settings=settings, last=last)
        place, what = found or (last, "which layer broke first could not be found")
        step = trainer.global_step - (last - place)
        lr = dict(self._groups).get(place, _settings(trainer.optimizers[0]))[0]["lr"]
        when = "at" if found else "seen at"
        return (
            f"The loss is not finite: {when} step {step} (epoch {trainer.current_epoch + 1}), with "
            f"a learning rate of {float(lr):.3g}, {what}. Try a smaller model.optimizer.lr, or "
            f"+trainer.gradient_clip_val=1."
        )


class Copy:
    """Weights, buffers, optimizer and random numbers at some place of an epoch."""

    def __init__(self, trainer: Trainer, module: LightningModule, place: int) -> None:
        self.place = place
        self.network = module.network
        self.optimizer = trainer.optimizers[0]
        self.device = trainer.strategy.root_device
        on_gpu = self.device.type == "cuda"
        self.rng = torch.get_rng_state()
        self.cuda_rng = torch.cuda.get_rng_state(self.device) if on_gpu else None
        self.state = {p: dict(state) for p, state in self.optimizer.state.items()}
        originals = [t.detach() for t in self._tensors()]
        self.tensors = [torch.empty_like(t) for t in originals]
        for device in {t.device for t in originals}:  # together: a few operations on a GPU
            here = [i for i, t in enumerate(originals) if t.device == device]
            torch._foreach_copy_([self.tensors[i] for i in here], [originals[i] for i in here])

    def is_finite(self) -> bool:
        return _all_finite(self.tensors)

    @torch.no_grad()
    def restore(self) -> None:
        self.optimizer.state.clear()
        self.optimizer.state.update({p: dict(state) for p, state in self.state.items()})
        for own, copied in zip(self._tensors(), self.tensors, strict=True):
            own.copy_(copied)
        torch.set_rng_state(self.rng)
        if self.cuda_rng is not None:
            torch.cuda.set_rng_state(self.cuda_rng, self.device)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.network.parameters()
        yield from self.network.buffers()
        for state in self.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def training_loss_sum(module: LightningModule) -> Tensor:
    """The sum of the losses of the epoch so far: it stays not finite once a loss was."""
    assert isinstance(module, Classifier)
    module.gather_metrics()
    return module.stage_metrics("train").loss_sum


def is_finite(module: LightningModule) -> bool:
    """Whether all losses of the epoch so far, and the weights, are finite. Waits for the GPU."""
    losses = math.isfinite(float(training_loss_sum(module)))
    return losses and _all_finite(module.network.parameters())


def first_break(
    trainer: Trainer,
    module: LightningModule,
    start: Copy,
    *,
    settings: dict[int, list[dict[str, Any]]],
    last: int,
) -> tuple[int, str] | None:
    """Repeat the batches of an epoch from `start` to the place `last`, until something breaks.

    Gives the place and what broke in it; None if nothing did. `settings` are those of the
    optimizer's groups by place. The network and the optimizer are not as they were afterwards.
    """
    network, optimizer = module.network, trainer.optimizers[0]
    start.restore()
    module.train()
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        for place, (images, labels) in _batches(trainer, start.place):
            if place > last:
                return None
            for group, values in zip(optimizer.param_groups, settings[place], strict=True):
                group.update(values)
            with trainer.precision_plugin.forward_context():
                layer, logits = first_broken_output(network, images)
                if layer:
                    return place, f"the output of {layer} was the first to break"
                loss = module.loss(logits, labels)
            if not torch.isfinite(loss):
                return place, "the loss was the first to break, on outputs that are finite"
            optimizer.zero_grad()
            loss.backward()
            broken = [n for n, p in network.named_parameters() if not _all_finite([p.grad])]
            if broken:  # backwards: the last layer is the first
                return place, f"the gradient of {broken[-1]} was the first to break"
            if trainer.gradient_clip_val:
                module.clip_gradients(
                    optimizer,
                    gradient_clip_val=trainer.gradient_clip_val,
                    gradient_clip_algorithm=trainer.gradient_clip_algorithm,
                )
            optimizer.step()
            broken = [n for n, p in network.named_parameters() if not _all_finite([p])]
            if broken:
                return place, f"the new {broken[0]} was the first to break"
    return None


def first_broken_output(network: nn.Module, images: Tensor) -> tuple[str | None, Tensor]:
    """The name of the first layer whose output is not finite, if one is not, and the logits."""
    broken: list[str] = []

    def look(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not broken and not _all_finite([output]):
                broken.append(name)

        return hook

    leaves = [(n, m) for n, m in network.named_modules() if not list(m.children())]
    handles = [layer.register_forward_hook(look(name)) for name, layer in leaves]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return (broken[0] if broken else None), logits


def _batches(trainer: Trainer, first: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """The batches of the epoch under way again, of one step each, from number `first`."""
    loader: Any = copy.copy(trainer.train_dataloader)
    loader.steps_together = 1
    position = {"epoch": trainer.current_epoch, "batch": first}
    loader.load_state_dict({**loader.state_dict(), **position})
    return zip(range(first, len(loader)), loader, strict=False)


def _settings(optimizer: Any) -> list[dict[str, Any]]:
    """Learning rate and the like of each group of parameters."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def _all_finite(tensors: Any) -> bool:
    """Whether all numbers in tensors are finite; True for None."""
    found = [torch.isfinite(t).all() for t in tensors if t is not None and t.is_floating_point()]
    return all(map(bool, found))
