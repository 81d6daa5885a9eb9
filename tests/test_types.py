"""What an editor and a type checker know: the public names, and the types of a user's program."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import minitrans
from minitrans.auto import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
# Each line that ends in "# mistake" is one; a type that is another than asserted would be one more.
PROGRAM = """\
from typing import Any

import numpy as np
import torch
from typing_extensions import assert_type

import minitrans
from minitrans import BertForNonsense  # mistake
from minitrans.cuda_graphs import FrozenModel
from minitrans.frozen import PrepackedModel
from minitrans.outputs import (
    AudioModelOutput,
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageLogitsOutput,
    LogitsOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
    XVectorOutput,
)
from minitrans.weights import LoadReport

inputs = torch.ones(1, 3)
model = minitrans.BertForSequenceClassification.from_pretrained("folder", num_labels=3)
assert_type(model, minitrans.BertForSequenceClassification)
assert_type(model.config, minitrans.BertConfig)
assert_type(
    minitrans.DistilBertForMaskedLM.from_pretrained("folder", output_loading_info=True),
    tuple[minitrans.DistilBertForMaskedLM, LoadReport],
)
output = model(input_ids=inputs, labels=inputs)
assert_type(output, LogitsOutput)
assert_type(output.logits, torch.Tensor)
assert_type(output.loss, torch.Tensor | None)
assert_type(model.forward(input_ids=inputs), LogitsOutput)
tensors: dict[str, torch.Tensor] = {"input_ids": inputs}
assert_type(model(**tensors), LogitsOutput)
assert_type(minitrans.BertModel(minitrans.BertConfig())(inputs), BaseModelOutputWithPooling)
assert_type(minitrans.BertForPreTraining(minitrans.BertConfig())(inputs), PreTrainingOutput)
assert_type(minitrans.BertForQuestionAnswering(minitrans.BertConfig())(inputs), QuestionAnsweringOutput)
assert_type(minitrans.SwinForImageClassification.from_pretrained("folder")(inputs), ImageLogitsOutput)
assert_type(minitrans.SwinBackbone.from_pretrained("folder")(inputs).feature_maps, tuple[torch.Tensor, ...])
assert_type(minitrans.Wav2Vec2Model.from_pretrained("folder")(inputs), AudioModelOutput)
assert_type(minitrans.Wav2Vec2ForCTC.from_pretrained("folder")(inputs), LogitsOutput)
assert_type(minitrans.Wav2Vec2ForXVector.from_pretrained("folder")(inputs).embeddings, torch.Tensor)
assert_type(model.freeze(), FrozenModel | PrepackedModel)
output.logitz  # mistake
output.logits.argmaxx(-1)  # mistake
minitrans.BertForMaskdLM  # mistake
minitrans.AutoModel.from_pretrainedd("folder")  # mistake

assert_type(minitrans.AutoModelForMaskedLM.from_pretrained("folder"), minitrans.PreTrainedModel)
assert_type(minitrans.AutoConfig.from_pretrained("folder"), minitrans.PreTrainedConfig)
assert_type(minitrans.SwinConfig.from_pretrained("folder"), minitrans.SwinConfig)
assert_type(minitrans.AutoTokenizer.from_pretrained("folder"), minitrans.PreTrainedTokenizerBase)
assert_type(minitrans.AutoImageProcessor.from_pretrained("folder"), minitrans.ViTImageProcessor)
tokenizer = minitrans.BertTokenizer.from_pretrained("folder")
assert_type(tokenizer, minitrans.BertTokenizer)
encoding = tokenizer("a text", return_tensors="pt")
assert_type(encoding, minitrans.BatchEncoding)
assert_type(model(**encoding, labels=inputs), LogitsOutput)
assert_type(minitrans.Wav2Vec2Processor.from_pretrained("folder"), minitrans.Wav2Vec2Processor)
assert_type(
    minitrans.Wav2Vec2FeatureExtractor.from_pretrained("folder"), minitrans.Wav2Vec2FeatureExtractor
)
assert_type(minitrans.Embedder.from_pretrained("folder"), minitrans.Embedder)
assert_type(minitrans.Transcriber.from_pretrained("folder"), minitrans.Transcriber)
texts, embedder = ["a text"], minitrans.Embedder.from_pretrained("folder")
assert_type(embedder.encode("a text"), np.ndarray)
assert_type(embedder.encode(texts, "query", batch_size=8, precision="int8"), np.ndarray)
assert_type(embedder.encode(sentences=iter(texts)), np.ndarray)
assert_type(embedder.encode(texts, convert_to_tensor=True), torch.Tensor)
assert_type(embedder.encode(texts, output_value=None), Any)
assert_type(embedder.encode(texts, "query", "query: ", 8), Any)
assert_type(embedder.encode_query("a text"), np.ndarray)
assert_type(embedder.encode_document(texts, convert_to_tensor=True), torch.Tensor)
embedder.encode(texts, convert_to_tensr=True)  # mistake
embedder.encode_query(5)  # mistake
"""
MISTAKES = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# mistake")}


def mypy(program: Path) -> set[int]:
    """The lines with errors; with the repository's settings, so that what mypy knows of it already is read."""
    command = [sys.executable, "-m", "mypy", "--output=json", str(program)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not found.stderr
    errors = [json.loads(line) for line in found.stdout.splitlines()]
    return {error["line"] for error in errors if error["severity"] == "error" and error["file"].endswith(program.name)}


def pyright(program: Path) -> set[int]:
    settings = {"include": [program.name], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    found = subprocess.run(command, cwd=program.parent, capture_output=True, text=True)
    errors = json.loads(found.stdout)["generalDiagnostics"]
    return {error["range"]["start"]["line"] + 1 for error in errors if error["severity"] == "error"}


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_types_of_a_program(checker, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert checker(program) == MISTAKES


def test_type_checkers_and_programs_know_the_same_names():
    """The names that are imported for type checkers only are those of the table, from the same modules."""
    (block,) = [node for node in ast.parse(Path(minitrans.__file__).read_text()).body if isinstance(node, ast.If)]
    known = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}
    assert known == {name: (module, name) for name, module in minitrans._HOME.items()}
    assert {*known} <= {*dir(minitrans)}
    for name, module in minitrans._HOME.items():
        assert getattr(minitrans, name) is getattr(importlib.import_module(module), name)


def test_every_class_of_a_family_is_a_public_name():
    for module, family in FAMILIES.values():
        names = [name for name in vars(importlib.import_module(module)) if name.startswith(family)]
        assert {
            name for name in names if name[len(family) :].startswith(("For", "Model", "Config", "Pre", "Back"))
        } <= {*minitrans.__all__}
        assert f"{family}ForNonsense" not in dir(minitrans)
