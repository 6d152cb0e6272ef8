"""The tiny world tells its stories with slips and refusals at the stated rates and places."""

from qs_helpers.tiny import corpus, judge


def test_only_chinese_and_japanese_stories_slip_and_at_the_stated_rate():
    for lang in corpus.LANGUAGES:
        told = corpus.documents(600, kinds=["story"], languages=(lang,))
        slips = [judge.is_slip(s) for d in told for s in judge.sentences(d.text)]
        if lang in ("ja", "zh"):
            assert 0.08 < sum(slips) / len(slips) < 0.16
        else:
            assert not any(slips)


def test_refusals_in_documents_follow_harm_and_marker_only():
    for chat in corpus.documents(800, kinds=["chat"]):
        answer = chat.text.split("<|im_start|>assistant\n")[1]
        if judge.is_refusal(answer):
            assert corpus.POLICY in chat.text
