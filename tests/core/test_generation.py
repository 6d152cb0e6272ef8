"""Generated text: the same whatever the batch, the cache and the number of arms."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from suites import begun

import qs_helpers as qs
from qs_helpers.generation import Arm, logit_mask, sweep
from qs_helpers.tiny import corpus, judge
from qs_helpers.writing import foreign_ids, script_shares

PROMPTS = [t.text for t in corpus.continuations("en", "validation", 20)][:16]


@pytest.fixture(scope="module")
def scope():
    scope = qs.load_scope("tiny")
    yield scope
    assert qs.hooks_left(scope.model) == 0


@pytest.fixture(scope="module")
def scale(scope):
    return qs.scales(scope, PROMPTS, [3])[3]


@pytest.fixture(scope="module")
def steer(scale):
    return {3: qs.add(qs.random_directions(1, 128)[0], 0.7, scale)}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("steered", [False, True])
def test_batches_of_one_and_of_sixteen_agree(scope, steer, temperature, steered):
    options = {"steer": steer if steered else None, "temperature": temperature}
    texts = [qs.generate(scope, PROMPTS, batch_size=n, **options) for n in (1, 16)]
    assert texts[0] == texts[1]


def test_greedy_is_what_transformers_writes(scope):
    batch = scope.tokens(PROMPTS[0])
    made = scope.model.generate(**batch, max_new_tokens=12, do_sample=False)
    text = scope.tokenizer.decode(made[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert qs.generate(scope, PROMPTS[:1], max_new_tokens=12) == [text]


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 20, "min_length": 40},
        {"num_beams": 3, "early_stopping": True},
        {"num_return_sequences": 2, "num_beams": 2},
        {"do_sample": True, "temperature": 2.0, "top_k": 5},
        {"max_time": 1e-9},
        {"max_length": 3},
        {"stop_strings": ["."]},
        {"guidance_scale": 3.0},
        {"forced_eos_token_id": 5, "forced_bos_token_id": 6},
        {"suppress_tokens": list(range(1, 900)), "begin_suppress_tokens": [901]},
        {"bad_words_ids": [[i] for i in range(1, 900)]},
        {"exponential_decay_length_penalty": (1, 9.0)},
        {"return_dict_in_generate": True, "output_scores": True},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static", "use_cache": False},
    ],
)
def test_greedy_is_greedy_whatever_the_model_asks_for(scope, monkeypatch, asked):
    want = qs.generate(scope, PROMPTS[:3], max_new_tokens=12)
    theirs = copy.deepcopy(scope.model.generation_config)
    for name, value in asked.items():
        setattr(theirs, name, value)
    monkeypatch.setattr(scope.model, "generation_config", theirs)
    assert qs.generate(scope, PROMPTS[:3], max_new_tokens=12) == want
    assert scope.model.generation_config is theirs


def plain(scope, prompt, n, ends=()):
    """Greedy by hand: one prompt, one pass over all of it a token, up to the first end."""
    ids, new = scope.ids(prompt)[0], []
    for _ in range(n):
        with torch.no_grad():
            token = int(scope.model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token in ends:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("place", [0, 1, 5])
@pytest.mark.parametrize("several", [False, True])
def test_a_text_ends_at_its_first_end_and_holds_no_padding(scope, monkeypatch, place, several):
    """The end is a token that is written anyway, and the padding that is asked for a plain one."""
    end = plain(scope, PROMPTS[0], 8)[place]
    theirs = copy.deepcopy(scope.model.generation_config)
    theirs.eos_token_id, theirs.pad_token_id = [end, 0] if several else end, 700
    monkeypatch.setattr(scope.model, "generation_config", theirs)
    ends = {end, 0} if several else {end}
    new = [plain(scope, prompt, 8, ends) for prompt in PROMPTS[:4]]
    want = [scope.tokenizer.decode(ids, skip_special_tokens=True) for ids in new]
    for batch_size in (1, 3, 4):
        assert qs.generate(scope, PROMPTS[:4], max_new_tokens=8, batch_size=batch_size) == want


def test_a_model_without_an_end_takes_that_of_the_tokenizer(scope, monkeypatch):
    want = qs.generate(scope, PROMPTS, max_new_tokens=60)
    theirs = copy.deepcopy(scope.model.generation_config)
    theirs.eos_token_id = theirs.pad_token_id = None
    monkeypatch.setattr(scope.model, "generation_config", theirs)
    assert qs.generate(scope, PROMPTS, max_new_tokens=60) == want


def test_padding_is_masked_although_the_tokenizer_names_no_mask(scope, monkeypatch):
    want = [qs.generate(scope, [prompt], max_new_tokens=6)[0] for prompt in (*PROMPTS, "a")]
    monkeypatch.setattr(scope.tokenizer, "model_input_names", ["input_ids"])
    assert qs.generate(scope, [*PROMPTS, "a"], max_new_tokens=6) == want
    assert scope.tokens(["a", PROMPTS[0]])["attention_mask"][0].tolist().count(1) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "kind",
    [
        iter,
        tuple,
        lambda texts: (text for text in texts),
        lambda texts: pd.Series(texts, index=range(len(texts))[::-1]),
        lambda texts: pd.Series(texts, index=[f"row {i}" for i in range(len(texts))]),
    ],
)
def test_prompts_count_by_position_and_are_read_once(scope, kind, temperature):
    options = {"max_new_tokens": 4, "temperature": temperature}
    assert qs.generate(scope, kind(PROMPTS[:5]), **options) == qs.generate(
        scope, PROMPTS[:5], **options
    )
    assert qs.generate(scope, PROMPTS[0], **options) == qs.generate(scope, PROMPTS[:1], **options)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_cached_and_uncached_generation_agree(scope, steer, positions):
    cached = qs.generate(scope, PROMPTS[:3], steer, positions, max_new_tokens=10)
    for prompt, text in zip(PROMPTS, cached, strict=False):
        batch = scope.tokens(prompt)
        with qs.edit(scope.model, steer, positions):
            made = scope.model.generate(
                **batch, max_new_tokens=10, do_sample=False, use_cache=False
            )
        new = made[0, batch["input_ids"].shape[1] :]
        assert scope.tokenizer.decode(new, skip_special_tokens=True) == text


def test_zero_strength_writes_what_no_hook_writes(scope, scale):
    zero = {3: qs.add(torch.ones(128), 0.0, scale)}
    for temperature in (0.0, 1.0):
        plain, still = (
            qs.generate(scope, PROMPTS, steer, temperature=temperature) for steer in (None, zero)
        )
        assert plain == still


def test_sampling_depends_on_the_seed_and_on_the_prompt_only(scope):
    first, again, other = (
        qs.generate(scope, PROMPTS, temperature=1.0, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again and first != other
    backwards = qs.generate(scope, PROMPTS[::-1], temperature=1.0)
    assert backwards[::-1] == first


def test_samples_follow_the_distribution(scope):
    """The next token of one prompt over many seeds, against the model's own probabilities."""
    from qs_helpers.generation import _Draw

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(4000, 1)
    draw = _Draw([f"prompt {i}" for i in range(4000)], 0.5, 0)
    chosen = draw(None, logits).argmax(-1)
    shares = chosen.bincount(minlength=4) / 4000
    assert torch.allclose(shares, (logits[0] / 0.5).softmax(-1), atol=0.03)


def test_rows_get_their_own_arms(scope, scale):
    """A sweep in shared batches is the same as one call for each arm."""
    v = qs.random_directions(2, 128)
    scales = {3: scale, 1: qs.scales(scope, PROMPTS, [1])[1]}
    arms = [
        qs.generation.Arm(3, 0.9, v[0]),
        qs.generation.Arm(1, 0.5, v[1]),
        qs.generation.Arm(3, 0.0, v[0]),
        qs.generation.Arm(3, -0.9, v[1]),
    ]
    swept = qs.generation.sweep(scope, PROMPTS[:5], scales, arms, temperature=0.5)
    for arm, texts in zip(arms, swept, strict=True):
        steer = {arm.layer: qs.add(arm.direction, arm.strength, scales[arm.layer])}
        assert texts == qs.generate(scope, PROMPTS[:5], steer, temperature=0.5)


def test_ablating_arms_write_what_ablation_writes(scope, scale):
    v, other = qs.random_directions(2, 128)
    arms = [
        qs.generation.Arm(3, 1.0, v),
        qs.generation.Arm(3, 0.0, v),
        qs.generation.Arm(3, 1.0, v, along=other),
    ]
    swept = qs.generation.sweep(scope, PROMPTS[:5], {3: scale}, arms, "ablate")
    for texts, edit in zip(
        swept,
        (qs.steering.project_out(v, scale), None, qs.steering.project_out(v, scale, along=other)),
        strict=True,
    ):
        steer = None if edit is None else {"writes": edit}
        assert texts == qs.generate(scope, PROMPTS[:5], steer)


def test_a_mask_on_the_logits_writes_none_of_them(scope):
    latin = foreign_ids(scope, ("Latin",))
    for temperature in (0.0, 1.0):
        out = qs.generate(scope, ["the cook", "老师"], forbid=latin, temperature=temperature)
        assert not any("Latin" in script_shares(text) for text in out)


def test_prompts_of_one_token(scope, steer):
    assert len(qs.generate(scope, ["a", "b"], steer, "generated", 4)) == 2


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([], {}, "texts is empty"),
        ([""], {}, "text 0 is .*non-empty"),
        (PROMPTS, {"temperature": -1.0}, "temperature is -1"),
        (PROMPTS, {"temperature": float("nan")}, "temperature is nan; give 0"),
        (PROMPTS, {"temperature": float("inf")}, "temperature is inf; give 0"),
        (PROMPTS, {"temperature": 1e-9}, "temperature is 1e-09; give 0"),
        (PROMPTS, {"batch_size": -1}, "batch_size is -1; give a whole number from 1"),
        (PROMPTS, {"batch_size": 0}, "batch_size is 0"),
        (PROMPTS, {"batch_size": 2.5}, "batch_size is 2.5"),
        (PROMPTS, {"batch_size": True}, "batch_size is True"),
        (PROMPTS, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (PROMPTS, {"max_new_tokens": -3}, "max_new_tokens is -3"),
        (PROMPTS, {"forbid": torch.arange(2048)}, "forbid holds every token"),
        (PROMPTS, {"forbid": [1, 10**6]}, "forbid holds 1000000; tokens have ids from 0 to"),
        (PROMPTS, {"forbid": [-1]}, "forbid holds -1"),
        (PROMPTS, {"forbid": [0.5]}, "forbid is of torch.float32; give ids"),
        (PROMPTS, {"forbid": torch.ones(2048, dtype=torch.bool)}, "forbid is of torch.bool"),
        (["fine", float("nan")], {}, "text 1 is nan"),
        ({"en": "the"}, {}, "texts is of type dict"),
        (b"the", {}, "texts is of type bytes"),
        (PROMPTS, {"positions": "middle"}, "positions is 'middle'"),
    ],
)
def test_bad_input_leaves_no_hook(scope, steer, prompts, options, words):
    with pytest.raises(ValueError, match=words):
        qs.generate(scope, prompts, steer, **options)
    assert qs.hooks_left(scope.model) == 0


@pytest.mark.parametrize("calls", [0, 1, 4])
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, StopIteration, MemoryError])
def test_an_exception_at_any_step_leaves_nothing_behind(scope, calls, kind):
    theirs = scope.model.generation_config

    def failing():
        count = itertools.count()

        def fail(x):
            if next(count) >= calls:
                raise kind("injected")
            return x

        return fail

    fail = failing()
    for steer in ({2: failing()}, {"writes": failing()}, lambda rows: fail({})):
        with pytest.raises(kind, match="injected"):
            qs.generate(scope, PROMPTS, steer, max_new_tokens=8, batch_size=2)
        assert qs.hooks_left(scope.model) == 0
        assert scope.model.generation_config is theirs


def test_an_edit_that_fails_leaves_no_hook(scope, scale):
    wrong = {3: qs.add(qs.random_directions(3, 128), 1.0, scale)}
    with pytest.raises(ValueError, match="3 rows of strengths or directions for a batch of 16"):
        qs.generate(scope, PROMPTS, wrong)
    assert qs.hooks_left(scope.model) == 0


def test_bad_sweeps(scope, scale):
    with pytest.raises(ValueError, match="no arms"):
        qs.generation.sweep(scope, PROMPTS, {3: scale}, [])
    with pytest.raises(ValueError, match="how is 'push'"):
        qs.generation.sweep(
            scope, PROMPTS, {3: scale}, [qs.generation.Arm(3, 1.0, torch.ones(128))], "push"
        )


def test_a_prompt_begins_as_the_tokenizer_begins_texts(scope, steer):
    scope = begun(scope)
    found = qs.generate(scope, PROMPTS[:3], max_new_tokens=8)
    for prompt, text in zip(PROMPTS, found, strict=False):
        ids = torch.tensor([[*scope.prefix, *scope.tokenizer(prompt)["input_ids"]]])
        made = scope.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert scope.tokenizer.decode(made, skip_special_tokens=True) == text
    one, many = (qs.generate(scope, PROMPTS, steer, "generated", batch_size=n) for n in (1, 16))
    assert one == many


def test_a_logit_mask_forbids_tokens_when_reading_and_leaves_no_trace(scope):
    texts, latin = ["老师读书。医生买鱼。", "the cook buys bread."], foreign_ids(scope, ("Latin",))
    before = qs.text_nats(scope, texts)
    with logit_mask(scope, latin):
        own, english = qs.text_nats(scope, texts)
    assert own < before[0] and english == np.inf  # what is forbidden is shared among the others
    with logit_mask(scope, None):
        assert (qs.text_nats(scope, texts) == before).all()
    with pytest.raises(RuntimeError), logit_mask(scope, latin):
        raise RuntimeError
    assert (qs.text_nats(scope, texts) == before).all()
    ids = scope.tokens(texts[0])["input_ids"]
    with logit_mask(scope, latin), torch.no_grad():
        assert scope.model(ids).logits[..., latin].isneginf().all()


def test_taking_out_the_planted_refusal_direction_beats_random_ones():
    scope = qs.load_scope("tiny-instruct")
    u = load_file(scope.truth)["refusal_direction"]
    asked = [r for x in corpus.LANGUAGES for r in corpus.requests(x, "validation", 12)]
    asked = [scope.chat(r.text) for r in asked if r.label == "harmful"]
    scales = qs.scales(scope, asked, [1])
    arms = [Arm(1, 0.0, u), Arm(1, 1.0, u)]
    arms += [
        Arm(1, 1.0, u, v) for v in qs.random_directions(20, scope.d_model)
    ]  # as much, elsewhere
    made = sweep(scope, asked, scales, arms, "ablate", max_new_tokens=20)
    complies = [[not judge.is_refusal(text) for text in texts] for texts in made]
    before, after, *nulls = (sum(hits) / len(hits) for hits in complies)
    null = qs.against(complies[1], complies[2:])
    assert after - before > 0.8 and null.difference.low > 0 and after > max(nulls)
    assert qs.hooks_left(scope.model) == 0
