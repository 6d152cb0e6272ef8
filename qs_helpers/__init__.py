"""Helpers for the Qwen-Scope notebooks: `import qs_helpers as qs`.

Each public name lives in one module of this package and is loaded when it is first used, so
that the import itself is quick and silent.
"""

from importlib import import_module

# Module by module, the names that notebooks use as qs.<name>.
_MODULES = {
    "catalog": ("COMMUNITY", "GROUPS", "TINY", "Group", "get_group", "groups_for", "memory_plan"),
    "scope": ("Scope", "load_scope"),
    "sae": ("CONVENTIONS", "SparseActs", "TopKSAE"),
    "loading": ("load_sae",),
    "blocks": ("decoder_layers", "text_config"),
    "hooks": ("capture", "edit", "hooks_left"),
    "replay": ("edited", "first_place", "reuse_below", "run_above"),
    "metrics": (
        "check_reading",
        "compare_readings",
        "cross_entropy",
        "fvu",
        "sink_mask",
        "token_cross_entropy",
    ),
    "forward": ("activations", "ends", "peaks", "residuals"),
    "interventions": (
        "Scale",
        "add",
        "cap_along",
        "change_features",
        "only_where",
        "project_out",
        "scales",
    ),
    "doses": ("EditReport", "edit_sizes", "report_edit", "strong_activation"),
    "directions": (
        "diff_at_positions",
        "diff_of_means",
        "position_means",
        "principal_components",
        "template_tokens",
        "without",
    ),
    "controls": ("equal_size", "matched_features", "random_directions", "shuffled_choice"),
    "prompts": ("load_prompts", "tiny_twins"),
    "refusal": (
        "check_refuser",
        "check_suite",
        "choose_direction",
        "load_refuser",
        "opening_tokens",
        "refuses",
        "score_candidates",
    ),
    "attribution": ("feature_attribution", "gradients"),
    "feature_sets": (
        "activation_gap",
        "activity",
        "best",
        "cosines",
        "feature_edits",
        "random_sets",
        "redirected",
        "usual_peaks",
    ),
    "tradeoff": ("Curve", "area", "cheapest", "cost_at", "cost_gap", "interpolated"),
    "patching": ("along", "coordinates", "features", "recovered"),
    "weights": ("orthogonalised",),
    "selection": ("firing_contrast", "output_effects", "token_odds", "typical_tokens"),
    "surprisal": (
        "continuation_nats",
        "fluent",
        "kl_by_position",
        "kl_summary",
        "kl_tables",
        "text_nats",
        "usual_nats",
    ),
    "generation": ("generate",),
    "arms": ("Arm", "dose_grid", "sweep"),
    "knobs": (
        "RULES",
        "Knob",
        "KnobTrial",
        "direction_knob",
        "feature_knob",
        "try_knob",
        "verdicts",
    ),
    "codeswitch": ("foreign_ids", "foreign_token", "switching"),
    "signals": (
        "Signal",
        "excess_loss",
        "export_excess",
        "finetune",
        "pre_activations",
        "read_excess",
        "usual_levels",
    ),
    "writing": (
        "compression",
        "distinct_n",
        "harmonic_mean",
        "language",
        "loops",
        "repeated",
        "script_shares",
        "sentences_with",
    ),
    "scan": ("Scan", "scan_corpus"),
    "scan_plan": ("ScanPlan", "plan_scan"),
    "views": ("across_layers", "compare_texts", "layer_map", "token_strip"),
    "cards": ("badges", "feature_card", "logit_lens", "nearest"),
    "concepts": ("ConceptSearch", "auroc", "concept_search"),
    "hub_data": ("hub_texts", "load_texts"),
    "data": ("Record", "masked", "read_labelled", "split_texts", "tiny_texts"),
    "detect": (
        "Rule",
        "choose_rule",
        "fit_rule",
        "flags",
        "rank",
        "read_texts",
        "strength",
    ),
    "baselines": (
        "Detector",
        "fit_length",
        "fit_logistic",
        "fit_means",
        "fit_ngrams",
        "fit_words",
    ),
    "scores": ("best_threshold", "confusion", "f1", "f1_score", "stratified_auroc"),
    "coverage": ("greedy_order",),
    "labels": ("label", "read_labels"),
    "neuronpedia": ("export_neuronpedia", "neuronpedia_link", "read_neuronpedia"),
    "explorer": ("explore",),
    "figures": ("in_words", "intervals", "plot_style", "save_figure"),
    "stats": (
        "Estimate",
        "crossing",
        "difference",
        "holm",
        "mean",
        "rank_p",
        "ratio",
        "share",
        "sign_flip_p",
    ),
    "results": (
        "ClaimFailed",
        "Run",
        "claim",
        "measured",
        "record",
        "start_run",
    ),
    "provenance": ("versions",),
    "presets": ("is_tiny", "project_root", "resolve_preset", "settings"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'qs_helpers' has no attribute {name!r}")
    value = getattr(import_module(f"qs_helpers.{_HOME[name]}"), name)
    globals()[name] = value  # the next use finds it directly
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
