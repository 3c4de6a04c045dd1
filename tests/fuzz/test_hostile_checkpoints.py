"""Whatever a checkpoint says, opening it runs, writes and fetches nothing."""

import copy
import itertools
import pickle
import resource
import sys
import time
import zipfile
from collections import OrderedDict

import pytest
import torch

import lightpose
from lightpose import checkpoint as checkpoint_module
from lightpose.cli import eval as eval_command
from lightpose.cli import predict, train
from lightpose.errors import UserError


def words(text):
    return text.split()


CALLABLES = words("""
    os.system os.mkdir os.remove os.rmdir os.makedirs os.execv os.popen os.putenv shutil.rmtree shutil.move shutil.copy
    subprocess.run subprocess.Popen subprocess.check_output builtins.eval builtins.exec builtins.open
    builtins.__import__ builtins.print builtins.getattr importlib.import_module runpy.run_path runpy.run_module
    code.interact types.FunctionType pathlib.Path pathlib.Path.unlink pathlib.Path.write_text ctypes.CDLL antigravity
    antigravity.geohash pickle.load pickle.loads marshal.loads yaml.unsafe_load numpy.load numpy.save cv2.imwrite
    webbrowser.open urllib.request.urlopen socket.create_connection http.server.HTTPServer functools.partial
    operator.methodcaller functools.reduce logging.FileHandler tempfile.mkdtemp hydra.utils.instantiate
    hydra.utils.call hydra.utils.get_method hydra.utils.get_object omegaconf.OmegaConf.save omegaconf.OmegaConf.load
    omegaconf.OmegaConf.register_new_resolver torch.load torch.save torch.hub.load torch.hub.load_state_dict_from_url
    torch.hub.download_url_to_file torch.utils.collect_env.run torch.utils.cpp_extension.load_inline
    torch.utils.bottleneck.__main__.main torch.jit.load torch.jit.script torch.package.PackageImporter
    torch.fx.GraphModule torch.os.system torch.distributed.nn.RemoteModule torch.nn.modules.module.os.system
    torch.onnx.export torch.compile torch.nn.modules.torch.save torch.serialization.load torch.storage._load_from_bytes
    torch.nn.init.warnings timm.create_model timm.models.load_checkpoint timm.models.load_pretrained
    timm.models._hub.push_to_hf_hub timm.utils.CheckpointSaver timm.data.create_dataset timm.layers.os.system
    timm.models.create_model lightning.Trainer lightning.pytorch.loggers.CSVLogger
    lightning.fabric.plugins.io.torch_io.TorchCheckpointIO safetensors.torch.save_file albumentations.load
    albumentations.save PIL.Image.open lightpose.checkpoint.load lightpose.runtime.whole_files.WholeFiles
        lightpose.data.synthetic.generate.generate lightpose.data.coco.index.read_coco
    lightpose.data.pixels.decode.EncodedImage     lightpose.data.coco.dataset.CocoInstances
    lightpose.data.coco.results.write_csv lightpose.inference.predictor.Predictor
    lightpose.models.weights.Path lightpose.models.weights.load_weights lightpose.callbacks.pictures.Pictures
    lightpose.cli.train.main lightpose.models.backbones.timm.timm.create_model
    lightpose.models.backbones.timm.create_timm lightpose.codecs.heatmap.np.save lightpose.estimators.base.torch.save
    lightpose.trust.importlib.import_module
""")


def hostile_nodes(target, victim):
    """The same call in every container that a file can hold, with arguments that would do harm."""
    harm = f"{victim}/thesis.txt"
    call = {
        "_target_": target,
        **dict.fromkeys(("path", "name", "f", "file", "filename", "command", "cmd", "args"), harm),
    }
    by_position = {"_target_": target, "_args_": [harm, harm]}
    return {
        "dict": call,
        "positional": by_position,
        "list": [by_position],
        "tuple": (by_position,),
        "tuple in tuple": ((call,), ({"x": (by_position,)},)),
        "dict in tuple in dict": {"x": ({"y": [(by_position,)]},)},
        "ordered": OrderedDict(by_position),
        "tuple of arguments": {"_target_": "torch.nn.Sequential", "_args_": (by_position, by_position)},
        "partial": {**by_position, "_partial_": True},
        "raw": {"_target_": "torch.nn.Identity", "_recursive_": False, "inner": (by_position,)},
        "target in a tuple": {"_target_": (target,), "_args_": [harm]},
        "nested target": {"_target_": {"_target_": target, "_args_": [harm]}},
        "interpolated": {"_target_": "${oc.env:TARGET," + target + "}", "_args_": (harm,)},
    }


PLACES = {
    "preprocessor": lambda config, node: config["estimator"].update(preprocessor=node),
    "backbone's options": lambda config, node: config["estimator"]["backbone"]["model_args"].update(img=node),
    "criterion": lambda config, node: config["estimator"]["head"].update(criterion=node),
    "metric": lambda config, node: config["estimator"]["metrics"].update(mine=node),
    "codec": lambda config, node: config["estimator"]["codec"].update(sigma=node),
    "estimator": lambda config, node: config.update(estimator=node),
    "transform": lambda config, node: config["augment"]["eval"]["pixels"].update(mine=node),
    "data set": lambda config, node: config["data"].update(dataset=node),
    "data's transforms": lambda config, node: config["data"]["transforms"]["eval"]["pixels"].update(mine=node),
}
COMMANDS = ("predict", "eval", "resume", "init_from")
OF_THE_NETWORK = ("preprocessor", "backbone's options", "criterion", "metric", "codec", "estimator")
OF_TRAINING = ("criterion", "metric")
"""What is left out by whoever only predicts, unless it is trusted."""


@pytest.fixture(scope="module")
def good(trained):
    return torch.load(trained / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture
def plant(good, tmp_path):
    """Writes a checkpoint with a node in a place; gives its path."""

    def write(node, place):
        content = copy.deepcopy(good)
        PLACES[place](content["lightpose"]["config"], node)
        torch.save(content, tmp_path / "hostile.ckpt")
        return tmp_path / "hostile.ckpt"

    return write


@pytest.fixture(scope="module")
def warm(trained, people, tmp_path_factory, watch):
    """All that is imported on first use is imported."""
    folder = tmp_path_factory.mktemp("warm")
    last = trained / "checkpoints/last.ckpt"
    image = people.parent / "images"
    for main, *arguments in (
        (eval_command.main, f"ckpt={last}", f"out={folder}/evaluation", "num_workers=0"),
        (predict.main, f"ckpt={last}", f"source={image}", f"out={folder}/predictions", "device=cpu", "num_workers=0"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["lightpose", *arguments])
            main()


def test_opening_a_good_checkpoint_is_silent(warm, watch, trained):
    with watch.during() as seen:
        lightpose.load(trained / "checkpoints/last.ckpt")
    assert seen == []


def test_the_watch_sees_what_an_unchecked_checkpoint_does(warm, watch, plant, tmp_path, monkeypatch):
    """So the tests below can fail."""
    path = plant(({"_target_": "os.mkdir", "_args_": [f"{tmp_path}/made"]},), "metric")
    monkeypatch.setattr("lightpose.building.check_targets", lambda *_: None)
    with watch.during() as seen, pytest.raises(UserError):
        lightpose.load(path, training=True)
    assert ("os.mkdir", f"('{tmp_path}/made', 511, -1)") in seen and (tmp_path / "made").exists()


@pytest.mark.parametrize("containers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_load_runs_nothing(warm, watch, plant, victim, containers):
    """Each call in some of the containers; neighbours in the list are put into others."""
    places = itertools.cycle(OF_THE_NETWORK)
    tried, acted, odd = 0, [], []
    for number, target in enumerate(CALLABLES):
        nodes = list(hostile_nodes(target, victim).items())
        for container, node in [nodes[(number + 3 * step) % len(nodes)] for step in range(containers)]:
            place, tried = next(places), tried + 1
            path = plant(node, place)
            with watch.during() as seen:
                try:
                    if place in OF_TRAINING:
                        lightpose.load(path)
                    lightpose.load(path, training=place in OF_TRAINING)
                    odd.append((target, container, "loaded"))
                except UserError:
                    pass
                except BaseException as error:
                    odd.append((target, container, repr(error)[:200]))
            acted += [(target, container, *event) for event in seen]
    print(f"{tried} configurations, {len(acted)} acted, {len(odd)} ended in another way")
    assert tried == len(CALLABLES) * containers and not acted and not odd


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_nothing(warm, watch, plant, victim, people, run, tiny, tmp_path, command):
    """Each call through one of the commands, which all open files with `lightpose.load` or its parts."""
    places = itertools.cycle(PLACES)
    containers = itertools.cycle(range(13))
    tried, acted, odd = 0, [], []
    for number, target in enumerate(CALLABLES[COMMANDS.index(command) :: len(COMMANDS)]):
        container, node = list(hostile_nodes(target, victim).items())[next(containers)]
        out = tmp_path / f"out{number}"
        path = plant(node, next(places))
        main, *arguments = {
            "predict": (predict.main, f"ckpt={path}", f"source={people}", f"out={out}", "device=cpu", "num_workers=0"),
            "eval": (eval_command.main, f"ckpt={path}", f"annotations={people}", f"out={out}", "num_workers=0"),
            "resume": (train.main, *tiny, f"data.train={people}", f"resume={path}", f"output_dir={out}"),
            "init_from": (train.main, *tiny, f"data.train={people}", f"init_from={path}", f"output_dir={out}"),
        }[command]
        if main is train.main:
            arguments += ["trainer.max_epochs=3", "trainer.limit_train_batches=1", "callbacks.pictures=null"]
        tried += 1
        with watch.during(out) as seen:
            try:
                code, _, err = run(main, *arguments)
            except BaseException as error:
                code, err = 1, f"Traceback {error!r}"
        acted += [(target, container, *event) for event in seen]
        if "Traceback" in err or (code and not any(line.startswith("error: ") for line in err.splitlines())):
            odd.append((target, container, err[-300:]))
    print(sorted({event[2:] for event in acted})[:20])
    print(f"{command}: {tried} configurations, {len(acted)} acted, {len(odd)} ended in another way")
    assert not acted and not odd


class Evil:
    def __reduce__(self):
        return exec, ("open('/tmp/owned', 'w')",)


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("model", {"model": "hf-hub:timm/resnet18.a1_in1k"}),
        ("model", {"model": "local-dir:{folder}"}),
        ("model_args", {"model_args": {"checkpoint_path": "{folder}/evil.pth"}}),
        ("model_args", {"model_args": {"pretrained": True}}),
        ("model_args", {"model_args": {"pretrained_cfg": {"file": "{folder}/evil.pth"}}}),
        ("model_args", {"model_args": {"pretrained_cfg": {"hf_hub_id": "timm/x"}, "pretrained_strict": False}}),
        ("model_args", {"model_args": {"pretrained_cfg_overlay": {"url": "https://example.org/x.pth"}}}),
        ("_args_", {"_args_": ["test_resnet", True]}),
    ],
)
def test_weights_are_neither_read_nor_fetched(warm, watch, good, tmp_path, place, options):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet"}')
    content = copy.deepcopy(good)
    backbone = content["lightpose"]["config"]["estimator"]["backbone"]
    filled = eval(repr(options).replace("{folder}", str(tmp_path)))
    content["lightpose"]["config"]["estimator"]["backbone"] = {**backbone, **filled}
    torch.save(content, tmp_path / "hostile.ckpt")
    with watch.during() as seen, pytest.raises(UserError):
        lightpose.load(tmp_path / "hostile.ckpt")
    assert seen == []


def test_options_that_would_fetch_are_switched_off(warm, watch, good, tmp_path):
    content = copy.deepcopy(good)
    content["lightpose"]["config"]["estimator"]["backbone"] |= {"pretrained": True, "weights": f"{tmp_path}/none.pth"}
    torch.save(content, tmp_path / "hostile.ckpt")
    with watch.during() as seen:
        lightpose.load(tmp_path / "hostile.ckpt")
    assert seen == []


def test_data_without_end_is_refused(good, tmp_path):
    laughs = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    itself = []
    itself.append(itself)
    for bomb in (laughs, itself, {"x": (laughs, laughs)}):
        for place in ("lightpose", "callbacks", "more"):
            content = {**good, place: {**good["lightpose"], "x": bomb}}
            torch.save(content, tmp_path / "bomb.ckpt")
            with pytest.raises(UserError, match="entries, or refers to itself"):
                lightpose.load(tmp_path / "bomb.ckpt")


def test_a_file_that_unpacks_to_more_is_refused(tmp_path, trained):
    source = trained / "checkpoints/last.ckpt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "z.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr("last/data/999", bytes(50_000_000))
    for opening in (lightpose.load, lambda path: checkpoint_module.load_data(path, "weights")):
        with pytest.raises(UserError, match="unpack to"):
            opening(tmp_path / "z.ckpt")


def test_a_tensor_larger_than_its_content_is_refused(good, tmp_path):
    content = {**good, "state_dict": {**good["state_dict"], "x": torch.zeros(1).expand(1 << 40)}}
    torch.save(content, tmp_path / "wide.ckpt")
    with pytest.raises(UserError, match="larger than its content"):
        lightpose.load(tmp_path / "wide.ckpt")


def test_a_network_larger_than_its_weights_is_refused(good, tmp_path):
    content = copy.deepcopy(good)
    content["lightpose"]["config"]["estimator"]["head"]["channels"] = 40_000
    torch.save(content, tmp_path / "giant.ckpt")
    with pytest.raises(UserError, match=r"far larger than|can't be built|not those of"):
        lightpose.load(tmp_path / "giant.ckpt")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("resnet18", {"layers": [100_000] * 4}),  # small layers without end
        ("vit_tiny_patch16_224", {"depth": 10_000}),
        ("swin_tiny_patch4_window7_224", {"window_size": 300, "img_size": 4800}),  # each pair of 90,000 positions
        ("beit_base_patch16_224", {"img_size": 3200}),
    ],
)
def test_a_network_that_grows_while_it_is_built_is_refused(good, tmp_path, model, options):
    content = copy.deepcopy(good)
    backbone = content["lightpose"]["config"]["estimator"]["backbone"]
    backbone |= {"model": model, "model_args": options, "input_hw": None}
    torch.save(content, tmp_path / "giant.ckpt")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UserError, match="far larger than"):
        lightpose.load(tmp_path / "giant.ckpt")
    assert time.monotonic() - start < 30
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < checkpoint_module.BUILT_BYTES


class Made:
    def __reduce__(self):
        return torch.Tensor, (1 << 26,)


@pytest.mark.parametrize("place", ["state_dict", "optimizer_states"])
def test_a_tensor_that_is_not_in_the_file_is_refused(good, trained, tmp_path, place):
    """The pickle calls for 256 MB by their size alone."""
    content = pickle.dumps({"lightpose": good["lightpose"], "state_dict": {}, place: {"x": Made()}}, 2)
    source = trained / "checkpoints/last.ckpt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "made.ckpt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, content if entry.filename.endswith("data.pkl") else old.read(entry))
    with pytest.raises(UserError, match="larger than itself"):
        lightpose.load(tmp_path / "made.ckpt")
