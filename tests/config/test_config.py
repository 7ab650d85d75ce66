"""All mistakes are reported at once, each in one sentence, without importing torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import GOOD, compose_once
from omegaconf import OmegaConf

from simplecnn.config import composition, devices
from simplecnn.config.composition import compose_checked, compose_config
from simplecnn.config.search_path import conf_dir
from simplecnn.errors import InputError
from simplecnn.sweeps.plan import plan_sweep, sweep_values


@pytest.fixture(autouse=True, scope="module")
def compositions():
    with compose_once():
        yield


def mistakes(*overrides: str, name: str = "train") -> list[str]:
    with pytest.raises(InputError) as caught:
        compose_config(name, overrides)
    return list(caught.value.mistakes)


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


ALL_CHOICES = [
    f"{group}={option}"
    for group in (
        *("callbacks", "data", "debug", "experiment", "hparams_search", "logger", "model"),
        *("model/optimizer", "model/scheduler", "trainer"),
    )
    for option in options(group)
    if group != "callbacks" or option in ("default", "none")
]


@pytest.mark.parametrize("choice", ALL_CHOICES)
def test_every_choice_of_every_group_is_valid(choice, monkeypatch):
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 1)
    monkeypatch.setattr(devices, "has_mps", lambda: True)
    root = ["data.root=."] if choice == "data=image_folder" else []
    config = compose_config("train", [choice, *root])
    assert config["model"]["_target_"] == "simplecnn.models.classifier.Classifier"


@pytest.mark.parametrize(
    "line",
    [
        "++trainer.fast_dev_run=true",
        "+trainer.limit_train_batches=0.1",
        "+trainer.limit_val_batches=0.1",
        "+trainer.limit_test_batches=0.1",
        "+trainer.precision=bf16-mixed",
        "callbacks=[default,early_stopping]",
        "~callbacks.filters",
        "callbacks.filters=null",
        "callbacks.filters.layers=[conv1,conv2]",
        "model/scheduler=cosine",
        "data.val_size=1000 data=mnist_5k",
        "+model.optimizer.betas=[0.9,0.99]",
        "model.network.channels=[8]",
        "model.class_weights=[1,2,1,1,1,1,1,1,1,1]",
        "model.network.num_classes=11 model.class_weights=[1,1,1,1,1,1,1,1,1,1,2]",
        "data=image_folder data.root=. model.class_weights=[1,2,3]",
        "data.val_size=0 monitor=null",
        "trainer.max_epochs=-1",
        "hydra.run.dir=/tmp/somewhere",
        "name=my-run_2.0",
    ],
)
def test_common_overrides_are_valid(line):
    compose_config("train", line.split())


@pytest.mark.parametrize(
    ("line", "given", "expected"),
    [
        ("model.class_weights=[1,2,3]", 3, 10),
        ("data=cifar10 model=lenet model.class_weights=[1,2]", 2, 10),
        ("model.network.num_classes=12 model.class_weights=[1,1,1,1,1,1,1,1,1,1]", 10, 12),
        ("model.network._target_=torchvision.models.resnet18 model.network.num_classes=10 "
         "data.channels=3 model.class_weights=[1,1,1,1,1,1,1,1,1,1,1]", 11, 10),
    ],
)  # fmt: skip
def test_class_weights_are_one_per_class(line, given, expected):
    assert mistakes(*line.split()) == [
        f"model.class_weights has {given} entries: it must have one for each of the {expected} "
        f"classes."
    ]


def test_overrides_set_values():
    overrides = "model.optimizer.lr=3e-3 data.batch_size=128 seed=7 model/scheduler=one_cycle"
    config = compose_config("train", overrides.split())
    assert config["model"]["optimizer"] == {
        "_target_": "torch.optim.Adam", "lr": 0.003, "fused": True,
    }  # fmt: skip
    assert config["data"]["batch_size"] == 128
    assert config["data"]["seed"] == 7
    assert config["model"]["scheduler"]["max_lr"] == 0.003
    assert config["model"]["scheduler_interval"] == "step"


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [([], "max"), (["monitor=val/loss"], "min"), (["monitor=val/loss", "mode=max"], "max"),
     (["monitor=test/loss", "data.test_each_epoch=true"], "min")],
)  # fmt: skip
def test_the_smallest_loss_is_the_best(overrides, mode):
    """With `max`, the worst checkpoint would be kept, and a run that improves stopped early."""
    config = compose_config("train", [*overrides, "callbacks=[default,early_stopping]"])
    assert config["mode"] == mode
    assert {config["callbacks"][name]["mode"] for name in ("best", "early_stopping")} == {mode}


@pytest.mark.parametrize(
    ("metric", "mode"),
    [*((name, "min") for name in ("nll", "mse", "mae", "rmse", "perplexity", "ppl", "err", "cost",
                                  "distance", "NLL", "total_loss", "calibration_error", "Loss")),
     *((name, "max") for name in ("acc", "f1", "terrain", "costume", "distances", "msel"))],
)  # fmt: skip
def test_the_name_of_a_metric_tells_whether_smaller_is_better(metric, mode):
    for name in (f"val/{metric}", f"val_{metric}", f"val.{metric}-2", f"{metric}/dataloader_0"):
        assert OmegaConf.create({"mode": f"${{mode_of:'{name}'}}"}).mode == mode


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("seeed=3", "seeed is not a key of the configuration. Did you mean seed?"),
        ("+seed=3", "seed is already set: leave out the plus, seed=3"),
        ("+hydra.job.name=x", "hydra.job.name is already set: leave out the plus, hydra.job.name"),
        ("seeds=1", "seeds is not a key of the configuration. Did you mean seed?"),
        ("+seeed=3", "seeed is not a key of the configuration. Did you mean seed?"),
        ("++foo.bar=1", "foo is not a key of the configuration. Available: model, data, "),
        ("+paths.dta_dir=x", "paths.dta_dir is not a key of paths. Did you mean data_dir?"),
        ("model.optimizer.betas=[0.9,0.99]", "model.optimizer.betas is not set. If torch.optim."
                                             "Adam has this argument, add it with a plus: +"),
        ("model.optimizer._partial_=true", "model.optimizer._partial_ is not set. Add it with a "),
        ("data.split_seed=3", "data.split_seed is not set. Add it with a plus: +data.split_seed=3"),
        ("modle.optimizer.lr=1", "modle.optimizer.lr is not a key of the configuration. "
                                 "Did you mean model?"),
        ("trianer=cpu", "trianer is not a key of the configuration. Did you mean trainer?"),
        ("trainer=gpuu", "trainer=gpuu: available options are auto, cpu, ddp, ddp_sim, gpu, mps. "
                         "Did you mean gpu?"),
        ("experiment=nothing", "experiment=nothing: available options are "),
        ("callbacks=[default,earlystopping]", "callbacks=earlystopping: available options are "),
        ("trainer.limit_train_batches=x", "trainer.limit_train_batches is 'x': it must be an "
                                          "integer >= 0, or a number from 0 to 1, or null."),
        ("model.optimizer.lrr=1", "model.optimizer.lrr is not a key of torch.optim.Adam. "
                                  "Did you mean lr?"),
        ("model.network.dropout=5", "model.network.dropout is 5: it must be a number >= 0"),
        ("model.network.kernel_size=4", "model.network.kernel_size is 4: it must be an odd"),
        ("model.network.kernel_size=29", "model.network.kernel_size is 29: the image has only 28"),
        ("model.network.channels=[]", "model.network.channels is []: it must be a list"),
        ("model.network.channels=[1,2,3,4,5]", "model.network.channels has 5 entries: "),
        ("model.network=null", "model.network is null: it must be a class to build"),
        ("model.network._target_=os.system",
         "model.network._target_: 'os.system' is not on the list of classes"),
        ("+callbacks.mine=3", "callbacks.mine is 3: it must be a class to build, with a _target_"),
        ("data.batch_size=0", "data.batch_size is 0: it must be an integer >= 1."),
        ("data/augmentation=affin", "data/augmentation=affin: available options are affine, color, "
                                    "elastic, flip, none, shift. Did you mean affine?"),
        ("experiment=best data.augmentation.scale=1",
         "data.augmentation.scale is 1: it must be a number >= 0 and < 1."),
        ("model.network.crop=[28,4]", "model.network.crop is [28, 4]: it must be two increasing "
                                      "integers, as in [4,28]."),
        ("model.network.crop=4", "model.network.crop is 4: it must be a list, each item an integer "
                                 ">= 0, or null."),
        ("lr=0.1", "lr is not a key of the configuration. Type model.optimizer.lr=0.1"),
        ("optimizer.lr=3", "optimizer.lr is not a key of the configuration. Type "
                           "model.optimizer.lr=3"),
        ("scheduler.gamma=1", "scheduler.gamma is not a key of the configuration. "
                              "Did you mean model.scheduler.gamma?"),
        ("model.scheduler.gamma=1", "model.scheduler is not set: type model/scheduler=… as well. "
                                    "Available options are cosine, none, one_cycle, plateau."),
        ("model/scheduler=null", "model/scheduler=null: available options are cosine, none, "
                                 "one_cycle, plateau. Did you mean none?"),
        ("hydra/launcher=basic,joblib", "hydra/launcher=basic,joblib lists several values: "
                                        "Hydra's own settings are the same for all jobs."),
        ("+model.network._convert_=x", "model.network._convert_ is 'x': it must be none, partial, "
                                       "object or all, or null."),
        ("epochs=3", "epochs is not a key of the configuration. Type trainer.max_epochs=3"),
        ("batch_size=32", "batch_size is not a key of the configuration. Type data.batch_size=32"),
        ("optimizer=sgd", "optimizer is not a key of the configuration. Type model/optimizer=sgd"),
        ("model.optimizer=sgd", "model.optimizer is 'sgd': type model/optimizer=sgd."),
        ("model/optimiser=sgd", "model/optimiser is not a config group. "
                                "Did you mean model/optimizer=sgd?"),
        ("data.augmentation=affine", "data.augmentation is a config group: "
                                     "type data/augmentation=affine"),
        ("trainer/max_epochs=3", "trainer/max_epochs is not a config group: "
                                 "type trainer.max_epochs=3"),
        ("lr = 3", "Write lr=3, without spaces around the '='."),
        ("data.batch_size=6.4", "data.batch_size is 6.4: it must be an integer >= 1."),
        ("seed=null", "seed is null: it must be an integer from 0 to 4294967295."),
        ("train=3", "train is 3: it must be true or false."),
        ("train=false", "train is false: type ckpt_path=<file> to choose the checkpoint to test."),
        ("ckpt_path=/no/such.ckpt", "ckpt_path is '/no/such.ckpt': it must be an existing file"),
        ("name=../../x", "name is '../../x': it must be at most 100 letters, digits"),
        ("mode=maximum", "mode is 'maximum': it must be max or min."),
        ("monitor=val/ac", "monitor is 'val/ac': this run logs train/loss, train/acc, val/loss, "
                           "val/acc. Did you mean val/acc?"),
        ("data.val_size=60000", "data.val_size is 60000: it must be at most 59999, so that"),
        ("data=mnist_5k data.val_size=4500", "data.val_size is 4500: it must be at most 4499, so"),
        ("data.val_size=0", "monitor is 'val/acc': this run logs train/loss, train/acc."),
        ("trainer=gpu", "trainer.accelerator is 'gpu': this machine has no CUDA device. "
                        "Type trainer=auto or trainer=cpu."),
        ("batchsize=3", "batchsize is not a key of the configuration. Type data.batch_size=3"),
        ("max_epoch=3", "max_epoch is not a key of the configuration. Type trainer.max_epochs=3"),
        ("learning_rate=1", "learning_rate is not a key of the configuration. Type model.opti"),
        ("gpus=1", "gpus is not a key of the configuration. Type trainer.devices=1"),
        ("device=cpu", "device is not a key of the configuration. Type trainer=cpu"),
        ("device=cuda", "device is not a key of the configuration. Type trainer=gpu"),
        ("trainer=cuda", "trainer=cuda: available options are auto, cpu, ddp, ddp_sim, gpu, mps. "
         "Did you mean gpu?"),
        ("model/scheduler=cosine_annealing", "model/scheduler=cosine_annealing: available options "
         "are cosine, none, one_cycle, plateau. Did you mean cosine?"),
        ("data.root=x", "data.root is a key of data=image_folder: type data=image_folder "
         "data.root=x"),
        ("model.optimizer.momentum=0.9", "model.optimizer.momentum is not set. If torch.optim.Adam "
         "has this argument, add it with a plus: +model.optimizer.momentum=0.9, or type "
         "model/optimizer=sgd model.optimizer.momentum=0.9"),
        ("num_workers=4", "num_workers: leave it out. simplecnn keeps the images in memory; no "
         "workers load them."),
        ("data.pin_memory=true", "data.pin_memory: leave it out. simplecnn keeps the images in "
         "memory; no workers load them."),
        ("model.num_workers=4", "model.num_workers is not a key of simplecnn.models.classifier."),
        ("precision=16", "precision is not a key of the configuration. Type trainer.precision=16"),
        ("droput=0.1", "droput is not a key of the configuration. Did you mean model.network.dr"),
        ("momentum=0", "momentum is a key of model/optimizer=sgd: type model/optimizer=sgd "
                       "model.optimizer.momentum=0"),
        ("model.optimizer.learning_rate=1", "model.optimizer.learning_rate is not a key of torch."
                                            "optim.Adam. Did you mean lr?"),
        ("seed=1,2,3", "seed=1,2,3 lists several values: add -m to run a sweep."),
        ("trainer=cpu,gpu", "trainer=cpu,gpu lists several values: add -m to run a sweep."),
        ("seed=range(3)", "seed=range(3) lists several values: add -m to run a sweep."),
        ("model=glob(*)", "model=glob(*) lists several values: add -m to run a sweep."),
        ("data.dataset=MNIST,KMNIST", "data.dataset=MNIST,KMNIST lists several values: add -m to "
                                      "run a sweep."),
        ("model.optimizer.lr=1,2", "model.optimizer.lr=1,2 lists several values: add -m to run a "
                                   "sweep."),
        ("+model.optimizer.betas=0,1", "+model.optimizer.betas=0,1 lists several values: add -m to "
                                       "run a sweep, or write a list as +model.optimizer.betas=[0"),
        ("callbacks=default,early_stopping", "callbacks=default,early_stopping lists several "
         "values: add -m to run a sweep, or write a list as callbacks=[default,early_stopping]."),
        ("lr=1,2", "lr is not a key of the configuration. Type model.optimizer.lr=1,2"),
        ("resume=a/b,c", "resume=a/b,c lists several values: add -m to run a sweep, or type "
                         "\"resume='a/b,c'\" if it is a single one."),
        ("data.mirrors=a,b", "data.mirrors is not set. Add it with a plus: +data.mirrors=a,b"),
        ("model.optimizer.lr=interval(0,1)", "model.optimizer.lr=interval(0,1) is a search space: "
                                             'type -m hparams_search=optuna "model.optimizer.l'),
        ("model.scheduler=torch.optim.lr_scheduler.StepLR", "model.scheduler is a config group: "
         "type +model.scheduler._target_=torch.optim.lr_scheduler.StepLR"),
        ("model.scheduler={_target_:a.b,c:3}", "model.scheduler is a config group: type "
                                               '"+model.scheduler={_target_:a.b,c:3}"'),
        ("model.optimizer=torch.optim.SGD", "model.optimizer is 'torch.optim.SGD': type "
                                            "model.optimizer._target_=torch.optim.SGD."),
        ("lr =3", "Write lr=3, without spaces around the '='."),
        ("=3", "'=3' cannot be parsed: write key=value, quoted where needed."),
        ("docs/filters.png", "'docs/filters.png' cannot be parsed: write key=value, quoted where"),
        ("resume=${x}", "resume: Interpolation key 'x' not found"),
        ("hydra.searchpath=a,b", "hydra.searchpath=a,b lists several values: Hydra's own settings"),
        ("hydra.searchpath=5", "hydra.searchpath=5: "),
        ("~logger", "~logger: type logger=none"),
        ("~callbacks", "~callbacks: type callbacks=none"),
        ("a b", "'a b' cannot be parsed: write key=value, quoted where needed."),
        ("seed", "'seed' cannot be parsed: write key=value, quoted where needed."),
        ("data.root=Blüten", "'data.root=Blüten' cannot be parsed: type \"data.root='Blüten'\""),
        ("seed=1,2,", "'seed=1,2,' cannot be parsed: it ends with a comma."),
        ("~ckpt_path", "ckpt_path is null: it cannot be deleted."),
        ("~seed=5", "seed is not 5: it cannot be deleted."),
        ("data=image_folder data.root=. data.test_fraction=1",
         "data.test_fraction is 1: it must be a number > 0 and < 1."),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence(line, sentence, monkeypatch):
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 0)
    monkeypatch.setattr(devices, "has_mps", lambda: False)
    splits = line.startswith(("data=", "experiment=best ", "lr = "))
    (mistake,) = mistakes(*(line.split() if splits else [line]))
    assert mistake.startswith(sentence)


@pytest.mark.parametrize(
    "words", [["lr", "=", "3"], ["lr", "=3"], ["lr=", "3"], ["lr = 3"], ["lr =3"]]
)
def test_spaces_around_an_equals_sign_are_explained(words):
    assert mistakes("seed=3", *words, "~ckpt_path", *words) == [
        "Write lr=3, without spaces around the '='.",
        "Write lr=3, without spaces around the '='.",
        "ckpt_path is null: it cannot be deleted.",
    ]


def test_each_argument_of_a_class_that_is_not_set_needs_a_plus():
    overrides = ["model.scheduler._target_=torch.optim.lr_scheduler.StepLR",
                 "model.scheduler.step_size=3"]  # fmt: skip
    sentences = mistakes(*overrides)
    assert [sentence.split()[-1] for sentence in sentences] == [f"+{text}" for text in overrides]
    compose_config("train", [f"+{text}" for text in overrides])


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("train", [f"++{w.lstrip('+')}" for w in GOOD
                   if "." in w.partition("=")[0] and "scheduler" not in w and "=" in w]),
        ("train", ["seed=3", "experiment=quickstart", "++model.optimizer.eps=1e-7", "~seed=3",
                   "+callbacks.mine={a:1,b:[2]}", "model/scheduler=cosine", "++trainer.devices=2",
                   "hydra.run.dir=x/${seed}", "+hydra.job.env_set.A=b", "~callbacks.best",
                   "data.data_dir='a b'", "+callbacks.mine={c:${name}}", "+seed=4", "name=a-b"]),
        ("explain", ["run=[a,b]", "channels.layers=first", "~data", "hydra.verbose=true"]),
    ],
)  # fmt: skip
def test_the_checked_configuration_is_the_one_that_hydra_composes(name, overrides):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        expected = compose(name, overrides, return_hydra_config=True)
        actual = composition._compose_overrides(name, overrides, [])
    for config in (expected, actual):
        config.hydra.job.override_dirname = ""
    assert OmegaConf.to_container(actual) == OmegaConf.to_container(expected)


def test_all_mistakes_are_reported_at_once():
    sentences = mistakes(
        "trainer=gpuu", "seeed=3", "+model.network.dropot=0.1", "data.batch_size=0", "a b"
    )
    assert [sentence.split()[0] for sentence in sentences] == [
        "'a", "trainer=gpuu:", "seeed", "model.network.dropot", "data.batch_size",
    ]  # fmt: skip


def test_more_devices_than_the_machine_has(monkeypatch):
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 2)
    assert compose_config("train", ["trainer=gpu", "trainer.devices=2"])
    (mistake,) = mistakes("trainer=gpu", "trainer.devices=3")
    assert mistake == "trainer.devices is 3: this machine has 2 CUDA device(s)."


def test_a_target_that_is_a_list_is_one_sentence():
    with pytest.raises(
        InputError, match=r"^model.scheduler._target_: \[\[1\]\] is not on the list"
    ):
        compose_config("train", ["model/scheduler=cosine", "model.scheduler._target_=[[1]]"])


def test_evaluate_needs_a_run():
    assert mistakes(name="evaluate") == ["run is missing: type run=last, or run=<directory>"]


def test_sweep_values_tries_each_value_once():
    assert sweep_values(["seed=1,2", "model.optimizer.lr=1e-3,3e-3", "data=mnist"]) == [
        ["seed=1", "model.optimizer.lr=0.001", "data=mnist"],
        ["seed=2", "model.optimizer.lr=0.001", "data=mnist"],
        ["seed=1", "model.optimizer.lr=0.001", "data=mnist"],
        ["seed=1", "model.optimizer.lr=0.003", "data=mnist"],
    ]
    assert sweep_values(["seed=1"]) == [["seed=1"]]


SMALL_SWEEP = ["data=mnist_5k", "model.optimizer.lr=1e-3,3e-3", "seed=1,2"]


def test_a_plan_has_every_job_of_the_product():
    plan = plan_sweep("train", [*SMALL_SWEEP, "hydra.sweep.dir=outputs/x", "hydra/launcher=basic"])
    assert plan.folder == Path("outputs/x") and plan.config_folders == [conf_dir()]
    assert plan.overrides == SMALL_SWEEP
    assert plan.jobs == [
        ["data=mnist_5k", "model.optimizer.lr=0.001", "seed=1"],
        ["data=mnist_5k", "model.optimizer.lr=0.001", "seed=2"],
        ["data=mnist_5k", "model.optimizer.lr=0.003", "seed=1"],
        ["data=mnist_5k", "model.optimizer.lr=0.003", "seed=2"],
    ]
    assert re.fullmatch(
        r"outputs/train/\d{4}-\d\d-\d\d_[\d-]+", str(plan_sweep("train", ["seed=1,2"]).folder)
    )


def test_a_plan_has_the_values_of_a_hparams_search_file():
    plan = plan_sweep("train", ["hparams_search=pooling", "seed=7,8"])  # seed overrides the file
    assert [job[0] for job in plan.jobs] == [
        f"model.network.pool={pool}" for pool in ("max", "average", "stride") for _ in range(2)
    ]
    assert [job[1] for job in plan.jobs] == ["seed=7", "seed=8"] * 3
    assert len(plan_sweep("train", ["experiment=glob(*)"]).jobs) == len(options("experiment"))


def test_a_sweep_can_include_no_augmentation():
    for overrides in (["data/augmentation=none"], ["experiment=best", "data/augmentation=none"]):
        assert compose_config("train", overrides)["data"]["augmentation"] is None
    plan = plan_sweep("train", ["hparams_search=ablation", "seed=1"])
    pairs = [(p, a) for p in ("max", "blur", "stride", "none") for a in ("none", "shift")]
    assert [job[:2] for job in plan.jobs] == [
        [f"model.network.pool={pool}", f"data/augmentation={change}"] for pool, change in pairs
    ]


@pytest.mark.parametrize(
    ("overrides", "sentences"),
    [
        (["seed=1,x"], ["seed is 'x': it must be an integer from 0 to 4294967295."]),
        # each value alone is valid, but not every combination
        (["data=mnist,mnist_5k", "++data.val_size=400,4500"],
         ["data.val_size is 4500: it must be at most 4499, so that training images remain."]),
        (["seed=1,2", "monitor=f1"],
         ["monitor is 'f1': this run logs train/loss, train/acc, val/loss, val/acc."]),
        (["seed=1,2", "trainer=cpuu"], ["trainer=cpuu: available options are auto, cpu, ddp, "
                                        "ddp_sim, gpu, mps. Did you mean cpu?"]),
        (["model.optimizer.lr=interval(0.001,0.1)"],
         ["model.optimizer.lr is an interval, but this sweep is a grid search: "
          "list the values (model.optimizer.lr=a,b,c), or search with hparams_search=optuna."]),
        (["seed=1,2", "trainer=cpu", "trainer.devices=2", "+trainer.strategy=ddp"],
         ["trainer.strategy is ddp with 2 processes: each process would run the whole sweep, "
          "with its own values. In a sweep, type trainer=ddp_sim, trainer.strategy=ddp_spawn or "
          "trainer.devices=1; or start such runs one by one, without -m."]),
    ],
)  # fmt: skip
def test_a_sweep_with_a_mistake_does_not_start(overrides, sentences):
    with pytest.raises(InputError) as caught:
        plan_sweep("train", overrides)
    assert [s.split("\n")[0] for s in caught.value.mistakes] == sentences


@pytest.mark.parametrize(
    ("overrides", "rejected"),
    [
        ("trainer=ddp", True),
        ("trainer=ddp trainer.devices=1", False),
        ("trainer=gpu trainer.devices=auto", True),  # Lightning's automatic choice is ddp
        ("trainer=gpu", False),
        ("trainer=ddp_sim", False),
        ("trainer=cpu trainer.devices=2 +trainer.strategy=ddp_spawn_find_unused_parameters_true",
         False),
        ("trainer=cpu trainer.devices=2 "
         "+trainer.strategy={_target_:pytorch_lightning.strategies.DDPStrategy}", True),
        ("trainer=cpu +trainer.num_nodes=2", True),
    ],
)  # fmt: skip
def test_a_sweep_rejects_jobs_that_relaunch_its_command(overrides, rejected, monkeypatch):
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 4)
    try:
        plan_sweep("train", ["seed=1,2", *overrides.split()])
    except InputError as error:
        (sentence,) = error.mistakes
        assert rejected and "each process would run the whole sweep" in sentence
    else:
        assert not rejected


def test_mistakes_are_reported_without_importing_torch():
    code = (
        "import sys\n"
        "from simplecnn import cli\n"
        "sys.argv = ['train.py', 'seeed=3', '+trainer.limit_train_batches=x']\n"
        "try: cli.train()\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert not {'torch', 'pytorch_lightning', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "seeed is not a key of the configuration. Did you mean seed?",
        "trainer.limit_train_batches is 'x': it must be an integer >= 0, or a number from 0 to 1, "
        "or null.",
    ]


def test_a_misspelled_class_of_simplecnn_is_reported():
    """No schema validates its other keys."""
    sentence = (
        "model._target_: simplecnn.models.classifier has no Clasifier. Did you mean Classifier?"
    )
    assert mistakes("model._target_=simplecnn.models.classifier.Clasifier") == [sentence]


@pytest.mark.parametrize("name", ["evaluate", "predict", "export", "explain", "report"])
def test_a_command_for_several_runs_has_a_folder_of_its_own(name):
    overrides = ["run=x", *(["image=x.png"] if name == "predict" else [])]
    hydra = compose_checked(name, overrides)[1].hydra
    assert hydra.sweep.dir.startswith(f"outputs/{name}/2")


def test_arguments_of_a_data_loader_beside_data_without_a_class():
    first, *_ = mistakes("~data._target_", "num_workers=4")
    assert first.startswith("num_workers is not a key of the configuration. Available: ")
