import json
from contextlib import closing

import peft
import pytest
import torch
import transformers as hf
from adapter_helpers import adapted_weights, rewrite, saved_adapter
from checkpoint_helpers import read_all

from cocktail_hub.checkpoint.adapters.lora import read_adapter
from cocktail_hub.checkpoint.adapters.reader import open_adapted
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import CheckpointError

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, "uses `peft_type: LOHA`, which is not a LoRA"),
        ({"trainable_token_indices": [1]}, "uses `trainable_token_indices`, which changes single rows"),
        ({"alora_invocation_tokens": [1]}, "uses `alora_invocation_tokens`"),
        ({"layer_replication": [[0, 1]]}, "uses `layer_replication`"),
        ({"target_parameters": ["x"]}, "uses `target_parameters`"),
        ({"use_qalora": True}, "uses `use_qalora`"),
        ({"use_hyperlora": True}, "uses `use_hyperlora`, which is not known to this version"),
        ({"new_config": {"a": 1}}, "uses `new_config`, which is not known"),
        ({"init_lora_weights": "pissa"}, "uses `init_lora_weights: pissa`, which changes the base's weights"),
        ({"init_lora_weights": "loftq"}, "uses `init_lora_weights: loftq`"),
        ({"r": 0}, "cannot be parsed: a rank is not positive"),
        ({"rank_pattern": dict.fromkeys(map(str, range(1001)), 2)}, "`rank_pattern` has 1,001 patterns"),
        ({"r": 10**400}, "cannot be parsed: a rank is above 1,000,000"),
        ({"r": None}, "cannot be parsed"),
        ({"r": float("inf")}, "cannot be parsed: cannot convert float infinity to integer"),
        ({"lora_alpha": None}, "cannot be parsed"),
        ({"lora_alpha": float("inf")}, "cannot be parsed: `lora_alpha` is inf, which would make every weight"),
        ({"lora_alpha": float("nan")}, "cannot be parsed: `lora_alpha` is nan, which would make every weight"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "cannot be parsed: `alpha_pattern` is nan, which would"),
        (
            {"rank_pattern": {"[": 3}},
            r"cannot be parsed: `rank_pattern` has '\[', which is not a regular expression \(unterminated",
        ),
        (
            {"alpha_pattern": {"q_proj": 4, "(": 3}},
            r"cannot be parsed: `alpha_pattern` has '\(', which is not a regular expression \(missing \)",
        ),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, changes, words):
    root = saved_adapter(tmp_path)
    rewrite(root, **changes)
    with pytest.raises(CheckpointError, match=words):
        read_adapter(LocalFiles(root))


def test_what_a_config_lacks_is_what_peft_takes_it_to_be(tmp_path):
    root = saved_adapter(tmp_path, r=8, lora_alpha=32)
    path = root / "adapter_config.json"
    shortened = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"r", "lora_alpha"}}
    path.write_text(json.dumps(shortened))
    model = hf.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(model, root).merge_and_unload().state_dict()
    with closing(open_adapted(adapted_weights(tmp_path / "base", root), tmp_path / "base", root)) as source:
        for name, tensor in read_all(source).items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-7, check_dtype=False)
    assert read_adapter(LocalFiles(root)).config.scale("q_proj") == 1.0


def test_damaged_configs_are_refused(tmp_path):
    root = saved_adapter(tmp_path)
    (root / "adapter_config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="it is not a mapping"):
        read_adapter(LocalFiles(root))
