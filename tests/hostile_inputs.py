"""Files that a stranger could send, and what a mix of them costs: each in a process of its own, with limits.

Run by `test_hostile.py` as `python hostile_inputs.py FOLDER`; prints a line of JSON for each input.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from trials import stay_here

from cocktail_hub import mix
from cocktail_hub.errors import CocktailError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CPU, MEMORY = 10, 500 << 20
"""Seconds and bytes that a mix may take beyond the imports."""
DEEP = "[" * 100_000 + "]" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{mine}: &{mine} [{','.join([f'*{before}'] * 10)}]\n" for before, mine in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\nb0: &b0 {<<: [*a, *a]}\n" + "".join(
    f"b{i}: &b{i} {{<<: [{','.join([f'*b{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 10)
)
ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
BASE = Path(sys.argv[1] if __name__ == "__main__" else "") / "base"
OK = f"ingredients:\n- {{model: {BASE}, weight: 0.5}}\n- {{model: {BASE}, weight: 0.5}}\n"

RECIPES: Mapping[str, str | bytes] = {
    "references that expand": BOMB + OK,
    "merges that expand": MERGES + OK,
    "deep lists": f"x: {DEEP}\n{OK}",
    "deep json": f'{{"ingredients": {DEEP}}}',
    "a number of a million digits": f'{{"method":"linear","ingredients":[{{"model":"a","weight":{"9" * 10**6}}}]}}',
    "a number in base sixty": f"ingredients:\n- {{model: a, weight: {'1:' * 20_000}1}}\n",
    "a number in base sixty with a fraction": f"{OK}seed: {'1:' * 3000}1.5\n",
    "a date that is none": f"method: 2020-13-45\n{OK}",
    "a call of python": f"x: !!python/object/apply:os.system ['touch {BASE}.touched']\n{OK}",
    "a flag that is none": f"method: !!bool x\n{OK}",
    "a time that is none": f"method: !!timestamp x\n{OK}",
    "a list that holds itself": f"x: &x [*x]\n{OK}",
    "ten thousand ingredients": "ingredients:\n" + f"- {{model: {BASE}, weight: 0.0001}}\n" * 10_000,
    "a million values of json": f'{{"ingredients": [{"1," * 10**6}1]}}',
    "a long text": f"method: '{'x' * 10**7}'\n{OK}",
    "no text": b"\0" * 1000,
    "colours": f'"\\e]0;x\\a": "\\e[31m\\u202e"\n{OK}',
    "half a character": '{"method":"\\ud800","ingredients":[]}',
    "a weight that is no number": OK.replace("0.5", ".nan"),
    "an expression without end": OK + "missing: {'((\\w|\\.)+)+\\d\\d': first}\n",
    "references back": OK + "missing: {'(.*)(.*)(.*)(.*)\\4\\3[tb]\\1\\1': first}\n",
    "an endless glob": OK + f"keep: ['{'*a' * 40}*']\n",
    "a name longer than any path": OK.replace(str(BASE), "a" * 5000, 1),
    "the home of nobody": OK.replace(str(BASE), "~nobody-has-this-name/a", 1),
    "a null character": '{"ingredients":[{"model":"a\\u0000","weight":1},{"model":"a/b","weight":1}]}',
    "lists four hundred deep": f"{OK}evidence: {{x: {'[' * 400}{']' * 400}}}\n",
    "recipes in recipes without end": "{ingredients: [{recipe: " * 90 + f"{BASE}" + "}]}" * 90,
    "forty recipes": "ingredients:\n" + f"- {{weight: 1, recipe: {{ingredients: [{BASE}, {BASE}]}}}}\n" * 40,
    "twenty thousand rules": f"{OK}keep: [{','.join(f'a{i}*' for i in range(20_000))}]\n",
    "ten thousand layers": f"{OK}layers: [{','.join(['{match: a, weights: [1, 1]}'] * 10_000)}]\n",
    "a list of weights": OK.replace("0.5", f"[{','.join(['0.5'] * 40_000)}]"),
    "a template that never ends": f"{OK}chat_template: '{{% for a in range(10**9) %}}{{% endfor %}}'\n",
    "a template of megabytes": json.dumps({"ingredients": [], "chat_template": "{" * 10**7}),
    "a set": f"ingredients: !!set {{{BASE}}}\n",
    "bytes": f"method: !!binary AAAA\n{OK}",
    "keys that are lists": f"? [a, b]\n: c\n{OK}",
    "a second document": f"{OK}---\n{OK}",
    "another encoding": OK.encode("utf-16"),
    "keys that stand twice": '{"ingredients": 1' + ', "ingredients": 1' * 500_000 + "}",
    "a seed of hundreds of digits": f"{OK}seed: {'9' * 400}\n",
    "a billion rows": f"{OK}pad_to_multiple_of: 1000000000\n",
    "a configuration of mergekit that expands": f"merge_method: linear\n{BOMB}",
    "a configuration of mergekit without end": "merge_method: linear\nslices:\n" + "- sources: [{model: a}]\n" * 6_000,
    "a token in an address": OK.replace(str(BASE), f"https://me:hf_{'x' * 34}@huggingface.co/a/b", 1),
}
CONFIGS: tuple[dict[str, Any], ...] = (
    {"architectures": 5},
    {"architectures": ["Bert\nModel"]},
    {"architectures": ["A" * 100_000]},
    {"model_type": ["a"]},
    {"model_type": "\x1b[31mbert"},
    {"id2label": [1]},
    {"id2label": {"x": ["a"]}},
    {"num_labels": "x"},
    {"vocab_size": -1},
    {"vocab_size": 10**30},
    {"hidden_size": 10**12},
    {"num_hidden_layers": 10**9},
    {"quantization_config": 5},
    {"auto_map": 5},
    {"auto_map": {"AutoModel": "../../x.Y"}},
    {"text_config": {"text_config": 1}},
    {"transformers_weights": "../../etc/passwd"},
    {"rope_scaling": 5},
    {"cocktail": 5},
    {"id2label": {"9" * 5000: "a"}},
    {"id2label": {"0": {"a": [1]}}},
    {"label2id": {"a": 10**400}},
    {"vocab_size": float("inf")},
    {"num_hidden_layers": -5},
    {"layer_types": ["x"] * 100_000},
    {"quantization_config": {"quant_method": [1]}},
    {"torch_dtype": {"a": 1}},
    {"architectures": ["BertModel"] * 100_000},
    {"architectures": ["os.system"]},
    {"model_type": "../../x"},
    {"model_type": "cocktail", "recipe": {"ingredients": [{"model": str(BASE)}] * 2000}},
    {"model_type": "cocktail", "recipe": {"evidence": json.loads("[" * 400 + "]" * 400)}},
    {"is_decoder": "x", "is_encoder_decoder": []},
    {"sentence_transformers": 5},
    {"deep": json.loads("[" * 500 + "]" * 500)},
    {"tie_word_embeddings": "x", "pad_token_id": 10**30},
    {"dtype": ["a"]},
    {"num_attention_heads": 0},
    {"\x1b[31m": 1},
)
FILES: dict[str, tuple[str, str | bytes]] = {
    **{
        f"{name} that is {what}": (name, content)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "modules.json")
        for what, content in (
            ("cut", '{"a": [1, 2'),
            ("a web page", "<!doctype html><html>\n"),
            ("empty", ""),
            ("deep", f'{{"a":{DEEP}}}'),
            ("one number", f'{{"a":{"9" * 10**6}}}'),
            ("no text", b'{"a":"\xff\xfe"}'),
        )
    },
    "a vocabulary without end": ("tokenizer.json", '{"model":{"type":"WordPiece","vocab":{"a":Infinity}}}'),
    "tokens that are none": ("tokenizer.json", '{"added_tokens":[5],"model":{"vocab":5}}'),
    "pairs that are none": ("tokenizer.json", '{"model":{"type":"Unigram","vocab":[5]}}'),
    "a card with a date that is none": ("README.md", "---\ndate: 2020-13-45\n---\nx"),
    "a card with references": ("README.md", f"---\n{BOMB}---\n"),
    "a card with a licence of code": ("README.md", "---\nlicense: !!python/object/apply:os.system [id]\n---\n"),
    "a card without end": ("README.md", "---\nx: 1\n" * 200_000),
    "a card of colours": ("README.md", '---\nlicense: "\\e[31m\\u202e"\nlicense_link: "javascript:alert(1)"\n---\n'),
}
FILES |= {
    f"{name} that holds {what[:40]!a}": (name, what)
    for name, whats in {
        "modules.json": (
            '[{"path": "../../x", "type": "a"}]',
            '[{"path": 5, "type": 5}]',
            f'[{",".join(["""{"path": "a", "type": "b"}"""] * 10_000)}]',
            '[{"path": "", "type": "os.system"}]',
            '[{"path": "\\u0000", "type": "sentence_transformers.models.Pooling"}]',
        ),
        "tokenizer_config.json": (
            '{"chat_template": 5}',
            '{"chat_template": [{"name": "../../x", "template": "y"}, 5]}',
            '{"chat_template": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"}',
            '{"added_tokens_decoder": [1]}',
            '{"added_tokens_decoder": {"9e9": 5}}',
            '{"tokenizer_class": "../../x", "extra_special_tokens": 5}',
            '{"auto_map": {"AutoTokenizer": 5}}',
            '{"model_max_length": Infinity}',
            f'{{"a": [{"[]," * 5_000_000}[]]}}',
        ),
        "tokenizer.json": (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 5}}',
            '{"model": {"type": "BPE", "vocab": {"a": 0}}, "post_processor": [1]}',
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1e400, "content": "x"}]}',
            f'{{"model": {{"vocab": {{"a": 0}}}}, "added_tokens": [{{"id": {"9" * 4000}, "content": "x"}}]}}',
            f'{{"model": {{"vocab": [{"[]," * 5_000_000}[]]}}}}',
        ),
        "generation_config.json": ("[1]", '{"eos_token_id": {"a": 1}}', f'{{"a": {DEEP[99_500:100_500]}}}'),
        "special_tokens_map.json": ("5", DEEP),
        "added_tokens.json": ('{"a": Infinity}', '{"a": [1]}'),
        "1_Pooling/config.json": ("5", '{"pooling_mode": [1]}'),
        "README.md": (f"---\nlanguage: {[1] * 9000}\ntags: 5\n---\n", f"---\n{'a' * 10**7}\n---\n"),
    }.items()
    for what in whats
}
EXAMPLES: Mapping[str, tuple[str, str | bytes]] = {
    "a line of megabytes": (".jsonl", "x" * 30_000_000),
    "deep": (".jsonl", f'{{"query": {DEEP}}}'),
    "a number of digits": (".jsonl", f'{{"query": {"9" * 10_000}}}'),
    "lists in lists": (".jsonl", f'{{"query": [{"[]," * 9_000_000}[]]}}'),
    "a text of megabytes": (".jsonl", json.dumps({"query": "w1 " * 9_000_000, "pos": ["a"], "neg": ["b"]})),
    "half a character": (".jsonl", '{"query": "\\ud800", "pos": ["a"], "neg": ["b"]}'),
    "millions of empty lines": (".jsonl", "\n" * 30_000_000),
    "infinity": (".json", '[{"query": Infinity, "pos": NaN, "neg": []}]'),
    "no objects": (".json", "[" + "1," * 300_000 + "1]"),
    "a cell of brackets": (".csv", f"query,pos,neg\na,{DEEP[:100_000]}],b\n"),
    "a quote that stays open": (".csv", 'query,pos,neg\n"' + "a" * 30_000_000),
    "null characters": (".csv", "query,pos,neg\n\0,\0,\0\n"),
    "half a million columns": (".tsv", "a\t" * 500_000 + "b\n"),
    "too many bytes": (".jsonl", "\n" * (33 << 20)),
    "no text": (".jsonl", b"\xff\xfe"),
    "no parquet": (".parquet", b"PAR1" + b"\xff" * 1000 + b"PAR1"),
    "nothing": (".jsonl", ""),
}
HEADERS: Mapping[str, str] = {
    "a name twice": "{" + ",".join(f'"a{i % 50_000}":{ENTRY}' for i in range(100_000)) + "}",
    "a million tensors": "{" + ",".join(f'"a{i}":{ENTRY}' for i in range(10**6)) + "}",
    "sizes of thousands of digits": f'{{"a":{{"dtype":"F32","shape":[{"9" * 4000}],"data_offsets":[0,4]}}}}',
    "thousands of sizes": f'{{"a":{{"dtype":"F32","shape":[{"9," * 20_000}9],"data_offsets":[0,4]}}}}',
    "a name of megabytes": f'{{"{"x" * 5_000_000}":{ENTRY}}}',
    "a name of colours": f'{{"x\\u001b[31m\\u202e":{ENTRY}}}',
    "deep": f'{{"a":{DEEP}}}',
    "sizes whose product is endless": f'{{"a":{{"dtype":"F32","shape":{[1 << 62] * 60},"data_offsets":[0,4]}}}}',
    "nothing of an endless size": '{"a":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]}}',
    "a dtype that is a list": '{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}',
    "bytes that overlap": f'{{"a":{ENTRY},"b":{ENTRY}}}',
    "offsets below zero": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
    "metadata of megabytes": f'{{"__metadata__":{{"a":"{"x" * 20_000_000}"}},"a":{ENTRY}}}',
    "metadata that is deep": f'{{"__metadata__":{DEEP},"a":{ENTRY}}}',
    "names of folders": f'{{"../../a":{ENTRY}}}',
    "a null name": f'{{"\\u0000":{ENTRY}}}',
    "empty tensors": "{"
    + ",".join(f'"a{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(150_000))
    + "}",
    "offsets that are no whole numbers": '{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0.0,4.0]}}',
}
INDICES: tuple[Any, ...] = (
    {"weight_map": 5},
    {"weight_map": {"a": 5}},
    {"weight_map": {"a": "../base/model.safetensors"}},
    {"weight_map": {"a": "/etc/passwd"}},
    {"weight_map": {"a": "s.safetensors\0"}},
    {"weight_map": {"a": "a" * 5000}},
    {"weight_map": {"a": "s.safetensors"}, "metadata": json.loads(DEEP[99_500:100_500])},
    {"weight_map": {f"{i}": "s.safetensors" for i in range(700_000)}},
    {"weight_map": {f"a{i}": f"{i}.safetensors" for i in range(100_000)}},
    [1],
)
ADAPTERS: tuple[dict[str, Any], ...] = (
    {"r": "x"},
    {"r": -1},
    {"lora_alpha": float("nan")},
    {"target_modules": 5},
    {"rank_pattern": 5},
    {"rank_pattern": {"(": 2}},
    {"rank_pattern": {"((\\w|\\.)+)+\\d\\d": 2}},
    {"base_model_name_or_path": 5},
    {"modules_to_save": 5},
    {"peft_type": 5},
    {"r": 10**400},
    {"r": 10**9},
    {"lora_alpha": 1e308},
    {"target_modules": ["a" * 1000] * 10_000},
    {"rank_pattern": {f"a{i}": 2 for i in range(100_000)}},
    {"alpha_pattern": {"(a|a)*" * 30: 2}},
    {"auto_mapping": 5},
    {"deep": json.loads(DEEP[99_500:100_500])},
)


class Touch:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {BASE}.touched",)


def many(count: int) -> bytes:
    """A zip file of so many members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for number in range(count):
            file.writestr(f"archive/data/{number}", b"")
        file.writestr("archive/data.pkl", b"\x80\x02}.")
    return stream.getvalue()


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def zipped(pickled: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3")
    return stream.getvalue()


def pickles() -> Mapping[str, bytes]:
    return {
        "a pickle that runs a command": pickle.dumps(Touch()),
        "a zipped pickle that runs a command": zipped(pickle.dumps(Touch())),
        "an inflating pickle": zipped(b"\0" * (600 << 20), zipfile.ZIP_DEFLATED),
        "a pickle of a long number": zipped(b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF)),
        "a pickle of a long text": zipped(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"."),
        "a hundred thousand members": many(100_000),
        "a tensor that repeats one number": saved({"a": torch.zeros(1).expand(1 << 40)}),
        "a tensor beside other things": saved({"a": torch.zeros(1), "b": [1, 2]}),
        "names that are numbers": saved({1: torch.zeros(1)}),
        "a sparse tensor": saved({"a": torch.zeros(2).to_sparse()}),
        "a list": saved([torch.zeros(1)]),
        "a cut file": saved({"a": torch.zeros(1000)})[:-500],
        "a pickle before zip that is cut": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2),
        "a pickle before zip of other things": b"".join(
            pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, 5, {"a": 1}, ["x"])
        ),
        "a pickle of endless bytes": zipped(b"\x80\x02}(X\x01\0\0\0acbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x0f\x85Ru."),
        "a key of shared tuples": zipped(b"\x80\x02}(K\x01\x85q\x01" + b"h\x01\x86q\x01" * 60 + b"K\x01u."),
        "a pickle of a million lists": zipped(b"\x80\x02" + b"]" * 15_000_000 + b"."),
        "a tensor without data": zipped(b"\x80\x02}(X\x01\0\0\0actorch\nFloatTensor\nM\0\x10\x85Ru."),
        "a deep pickle": zipped(b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."),
    }


def make_base() -> None:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
    BertModel(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(BASE)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(BASE)


def inputs(root: Path) -> Mapping[str, Callable[[], Any]]:  # noqa: C901, PLR0915 - one kind of input after the other
    """Name -> what makes the input and returns a recipe of it."""

    def model(change: Callable[[Path], object]) -> Callable[[], Any]:
        def made() -> Any:
            folder = root / "model"
            shutil.copytree(BASE, folder)
            change(folder)
            return {"ingredients": [{"model": str(each), "weight": 0.5} for each in (BASE, folder)]}

        return made

    def recipe(content: str | bytes) -> Callable[[], Any]:
        def made() -> Any:
            path = root / "recipe.yaml"
            path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
            return path

        return made

    def written(name: str, content: str | bytes) -> Callable[[], Any]:
        text = content if isinstance(content, bytes) else content.encode()
        return model(lambda folder: ((folder / name).parent.mkdir(exist_ok=True), (folder / name).write_bytes(text)))

    def changed(values: dict[str, Any]) -> Callable[[], Any]:
        def change(folder: Path) -> None:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")

        return model(change)

    def indexed(index: Any) -> Callable[[], Any]:
        def change(folder: Path) -> None:
            (folder / "model.safetensors").rename(folder / "s.safetensors")
            (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

        return model(change)

    def adapter(values: dict[str, Any]) -> Callable[[], Any]:
        def change(folder: Path) -> None:
            shutil.rmtree(folder)
            folder.mkdir()
            config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none"}
            config |= {"base_model_name_or_path": str(BASE)} | values
            (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
            name = "base_model.model.encoder.layer.0.attention.self.query"
            factors = {"lora_A": np.ones((2, 16), np.float32), "lora_B": np.ones((16, 2), np.float32)}
            save_file({f"{name}.{f}.weight": v for f, v in factors.items()}, folder / "adapter_model.safetensors")

        return model(change)

    def pickled(content: bytes) -> Callable[[], Any]:
        def change(folder: Path) -> None:
            (folder / "model.safetensors").unlink()
            (folder / "pytorch_model.bin").write_bytes(content)

        return model(change)

    def examples(suffix: str, content: str | bytes) -> Callable[[], Any]:
        def made() -> Any:
            path = root / f"examples{suffix}"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            return {"ingredients": [str(BASE), str(BASE)], "weighting": {"examples": str(path)}}

        return made

    def expanding() -> Any:
        from pyarrow import DictionaryArray, array, parquet, table

        repeated = DictionaryArray.from_arrays(array([0] * 100_000), array(["x" * 1_000_000]))
        parquet.write_table(table({"query": repeated, "pos": repeated, "neg": repeated}), root / "a.parquet")
        return {"ingredients": [str(BASE), str(BASE)], "weighting": {"examples": str(root / "a.parquet")}}

    def lying() -> Any:
        """A page of 64 MB of which the metadata say that it has 1000 bytes, in a number as long as the right one."""
        from pyarrow import parquet, table

        path, columns = root / "a.parquet", {name: ["x" * (64 << 20)] for name in ("query", "pos", "neg")}
        parquet.write_table(table(columns), path, compression="zstd", use_dictionary=False)
        size, data = (
            parquet.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size,
            path.read_bytes(),
        )
        right, wrong = (
            bytes((2 * n >> 7 * place & 127) | (128 if place < 3 else 0) for place in range(4)) for n in (size, 1000)
        )
        assert data.count(right) == len(columns)
        path.write_bytes(data.replace(right, wrong))
        return {"ingredients": [str(BASE), str(BASE)], "weighting": {"examples": str(path)}}

    def special(name: str, device: str = "") -> Callable[[], Any]:
        def change(folder: Path) -> None:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(device) if device else os.mkfifo(folder / name)

        return model(change)

    def header(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode() + b"1234"

    return {
        **{f"recipe: {name}": recipe(content) for name, content in RECIPES.items()},
        "recipe: a pipe": lambda: (os.mkfifo(root / "pipe.yaml"), root / "pipe.yaml")[1],
        "recipe: a device": lambda: ((root / "zero.yaml").symlink_to("/dev/zero"), root / "zero.yaml")[1],
        **{f"config: {number} {list(values)}": changed(values) for number, values in enumerate(CONFIGS)},
        **{f"file: {name}": written(*content) for name, content in FILES.items()},
        **{f"header: {name}": written("model.safetensors", header(text)) for name, text in HEADERS.items()},
        **{f"examples: {name}": examples(*content) for name, content in EXAMPLES.items()},
        "examples: a value that a column repeats": expanding,
        "examples: sizes that are wrong": lying,
        **{
            f"file: {name} that is a pipe, or {device}": special(name, device)
            for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "modules.json")
            for device in ("", "/dev/zero")
        },
        **{f"index: {number} {str(index)[:40]}": indexed(index) for number, index in enumerate(INDICES)},
        **{f"adapter: {number} {list(values)}": adapter(values) for number, values in enumerate(ADAPTERS)},
        **{f"weights: {name}": pickled(content) for name, content in pickles().items()},
        "file: a loop of links": model(
            lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("config.json"))
        ),
        "file: a link out of the folder": model(
            lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("/etc/passwd"))
        ),
        "file: names of colours": model(lambda f: [(f / n).write_text("x") for n in ("a\nb.txt", "\x1b[31m.json")]),
    }


def try_it(made: Callable[[], Any], root: Path) -> dict[str, Any]:
    """Mix an input, and say how that ended and what it cost."""
    source = made()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        mix(source, output=root / "out")
        ended, said = "mixed", (root / "out" / "README.md").read_text(encoding="utf-8")
    except CocktailError as error:
        ended, said = "refused", str(error)
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        ended, said = f"{type(error).__name__}: {error}", ""
    spent = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    return {"ended": ended, "said": said, "cpu": spent, "memory": grown}


def main() -> None:
    make_base()
    stay_here()
    for name, made in inputs(root := BASE.parent / "work").items():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        reading, writing = os.pipe()
        if not (child := os.fork()):
            resource.setrlimit(resource.RLIMIT_CPU, (2 * CPU, 2 * CPU))
            os.write(writing, json.dumps(try_it(made, root)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            found = stream.read()
        os.waitpid(child, 0)
        result = json.loads(found) if found else {"ended": "killed", "said": "", "cpu": 2 * CPU, "memory": 0}
        print(json.dumps({"name": name, **result}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
