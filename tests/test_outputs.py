"""Outputs read by attribute, key and position, copied, pickled, and taken apart as pytrees."""

import copy
import pickle
from dataclasses import MISSING, fields

import pytest
import torch
from torch.utils import _pytree

from minitrans import outputs

CLASSES = outputs.ModelOutput.__subclasses__()


def example() -> outputs.BaseModelOutputWithPooling:
    return outputs.BaseModelOutputWithPooling(torch.ones(1, 2, 3), None, (torch.zeros(1), torch.ones(1)))


def test_attribute_key_and_position():
    output = example()
    assert output.last_hidden_state is output["last_hidden_state"] is output[0]
    assert output.hidden_states is output["hidden_states"] is output[1] is output[-1]
    assert output[:1] == (output.last_hidden_state,)
    assert output.to_tuple() == (output.last_hidden_state, output.hidden_states)
    assert output.pooler_output is None
    assert list(output) == list(output.keys()) == ["last_hidden_state", "hidden_states"]
    assert len(output) == 2
    assert "pooler_output" not in output
    assert output.get("pooler_output", 3) == 3
    assert dict(output) == {**output} == dict(output.items())


def test_what_is_not_there():
    output = example()
    with pytest.raises(KeyError, match=r"pooler_output.*last_hidden_state, hidden_states"):
        output["pooler_output"]
    with pytest.raises(KeyError, match="nonsense"):
        output["nonsense"]
    with pytest.raises(IndexError):
        output[2]
    with pytest.raises(AttributeError):
        _ = output.nonsense


def test_fields_can_be_set_and_taken_out():
    output = example()
    output.pooler_output = torch.ones(1, 3)
    assert list(output) == ["last_hidden_state", "pooler_output", "hidden_states"]
    output["pooler_output"] = None
    assert "pooler_output" not in output
    assert output.pooler_output is None
    output["extra"] = 1
    assert output.extra == 1
    with pytest.raises(TypeError, match="keeps its fields"):
        output.pop("extra")


@pytest.mark.parametrize("kind", CLASSES)
def test_pytrees(kind):
    required = [spec.name for spec in fields(kind) if spec.default is MISSING]
    for chosen in ([spec.name for spec in fields(kind)], required):
        output = kind(**{name: torch.full((2,), float(index)) for index, name in enumerate(chosen)})
        leaves, structure = _pytree.tree_flatten(output)
        assert len(leaves) == len(chosen)
        doubled = _pytree.tree_unflatten([leaf * 2 for leaf in leaves], structure)
        assert type(doubled) is kind
        assert list(doubled) == list(output)
        for name in chosen:
            assert torch.equal(doubled[name], output[name] * 2)
    nested = _pytree.tree_map(lambda x: x + 1, {"a": [example()]})
    assert torch.equal(nested["a"][0].hidden_states[0], torch.ones(1))


def test_copies():
    output = example()
    for twin in (copy.deepcopy(output), pickle.loads(pickle.dumps(output)), copy.copy(output)):
        assert type(twin) is type(output)
        assert list(twin) == list(output)
        assert torch.equal(twin.last_hidden_state, output.last_hidden_state)
    assert "last_hidden_state=tensor" in repr(output)


def test_a_function_that_returns_one_can_be_compiled_and_mapped():
    def double(x: torch.Tensor) -> outputs.LogitsOutput:
        return outputs.LogitsOutput(None, x * 2)

    x = torch.randn(3)
    assert torch.equal(torch.compile(double, backend="eager", fullgraph=True)(x).logits, x * 2)
    mapped = torch.func.vmap(double)(torch.randn(4, 3))
    assert mapped.logits.shape == (4, 3)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_output_equals_a_dict_of_its_fields_and_shows_those_that_it_has(kind):
    first, second = [field.name for field in fields(kind)][:2]
    assert kind(1) == {first: 1}
    assert kind(1) != kind(2)
    assert kind(1, 2) == {first: 1, second: 2}
    assert repr(kind(1)) == f"{kind.__name__}({first}=1)"


def test_fields_set_later_stand_in_their_order():
    names = [field.name for field in fields(outputs.ImageLogitsOutput)]
    for late in names:
        output = outputs.ImageLogitsOutput(**{name: name for name in names if name != late})
        output["more"] = 0
        setattr(output, late, late)
        assert [name for name in output if name != "more"] == names
        assert output.to_tuple() == tuple(output[name] for name in output)


def test_what_an_output_is_made_of():
    kind = outputs.BaseModelOutput
    pairs = [("last_hidden_state", 1), ("more", 2)]
    for items in (dict(pairs), pairs, tuple(pairs), iter(pairs), [list(pair) for pair in pairs], kind(pairs)):
        assert kind(items) == {"last_hidden_state": 1, "more": 2}
        assert kind(items if not hasattr(items, "__next__") else iter(pairs)).hidden_states is None
    assert kind({}) == kind(iter([])) == {}
    for value in ([], (), [1, 2], ("ab", "cd"), [(1, 2)], [("a", 1, 2)], "ab", 3):
        assert kind(value) == {"last_hidden_state": value}, value
    table = {"last_hidden_state": 1}
    assert kind(table, hidden_states=2) == {"last_hidden_state": table, "hidden_states": 2}
    assert kind(table, 2) == {"last_hidden_state": table, "hidden_states": 2}
    assert kind(1, 2, 3) == {"last_hidden_state": 1, "hidden_states": 2, "attentions": 3}
    with pytest.raises(TypeError, match="and no others"):
        kind(1, 2, 3, 4)
    for mixture in ([("a", 1), 2], [("a", 1), ("b", 1, 2)], [("a", 1), (3, 1)]):
        with pytest.raises(ValueError, match="not of a mixture"):
            kind(mixture)
