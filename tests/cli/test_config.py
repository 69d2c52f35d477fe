"""Flags and YAML become settings; every mistake is one line that names its place and the nearest remedy."""

from dataclasses import asdict, fields

import pytest

from zoo.checkpoints.config import InspectConfig
from zoo.cli.config import parse
from zoo.cli.errors import UsageError
from zoo.cli.main import main
from zoo.engine.config import TrainConfig, ValidateConfig
from zoo.export.config import ExportConfig
from zoo.resources import find_config, list_configs
from zoo.settings import MAX_CROWD, flatten


def train_config(*argv: str) -> TrainConfig:
    return parse(TrainConfig, list(argv), "train.py")


def test_defaults_are_the_dataclasses_own():
    assert train_config() == TrainConfig()
    assert parse(ValidateConfig, [], "validate.py") == ValidateConfig()


def test_dashes_and_underscores_and_equals_signs_are_alike():
    spelled = [("--batch-size", "32"), ("--batch_size", "32"), ("--batch-size=32",), ("--batch_size=32",)]
    assert {train_config(*words).data.batch_size for words in spelled} == {32}


def test_switches_have_a_negation():
    assert train_config().hardware.channels_last
    assert not train_config("--no-channels-last").hardware.channels_last
    assert not train_config("--no_channels_last").hardware.channels_last
    assert train_config("--model-ema").schedule.model_ema


def test_flags_win_over_files_and_later_files_over_earlier_ones(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("lr: 0.5\nepochs: 7\nbatch_size: 8\n")
    second.write_text("lr: 0.25\nepochs: 9\n")
    config = train_config("--lr", "0.125", "--config", str(first), f"--config={second}")
    assert (config.optim.lr, config.schedule.epochs, config.data.batch_size) == (0.125, 9, 8)


def test_numbers_without_a_point_are_numbers(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("lr: 1e-3\nweight_decay: 1e-4\n")  # strings to YAML 1.1
    config = train_config("--config", str(file))
    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 1e-4)


def test_lists_may_be_written_as_one_value_or_with_commas(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("color_jitter: 0.4\nno_decay: [bias, '!norm']\n")
    config = train_config("--config", str(file), "--scale", "0.2,1")
    assert config.augment.color_jitter == [0.4]
    assert config.augment.scale == [0.2, 1.0]
    assert config.optim.no_decay == ["bias", "!norm"]


def test_selectors_on_the_command_line_need_no_quotes_of_yaml():
    config = train_config("--freeze", "*.bias", "--no-decay=bias, norm,!*.identity.bn.weight")
    assert config.optim.freeze == ["*.bias"]
    assert config.optim.no_decay == ["bias", "norm", "!*.identity.bn.weight"]
    assert train_config("--no-decay", "").optim.no_decay == []
    assert train_config("--freeze", "[bias, norm]").optim.freeze == ["bias", "norm"]
    assert train_config("--freeze", "head.[ab]").optim.freeze == ["head.[ab]"]
    assert train_config("--freeze", "[ab].weight", "head.[ab]").optim.freeze == ["[ab].weight", "head.[ab]"]


def test_what_a_command_requires_may_stand_in_a_file(tmp_path):
    file = tmp_path / "export.yaml"
    file.write_text("output: x.onnx\ncheckpoint: x.pt\n")
    config = parse(ExportConfig, ["--config", str(file)], "zoo export")
    assert (config.checkpoint, config.output) == ("x.pt", "x.onnx")
    config = parse(InspectConfig, ["y.pt"], "zoo inspect")
    assert config.checkpoint == "y.pt"
    with pytest.raises(UsageError, match=r"^command line: required: --output "):
        parse(ExportConfig, [], "zoo export")
    with pytest.raises(UsageError, match=r"^command line: required: CHECKPOINT\|MODEL "):
        parse(InspectConfig, [], "zoo inspect")


def test_what_changes_at_an_epoch_is_read_as_the_setting_it_is():
    config = train_config("--progressive", "{3: {color_jitter: 0.4, scale: '0.5,1'}}")
    assert config.augment.progressive == {3: {"color_jitter": [0.4], "scale": [0.5, 1.0]}}


def test_mappings_keep_their_types():
    words = ["--lr-scale", "{bias: 2}", "--progressive", "{0: {img_size: 160}, 37: {aa: rand-m7}}"]
    config = train_config(*words, "--model-kwargs", "{block: acb}")
    assert config.optim.lr_scale == {"bias": 2.0}
    assert config.augment.progressive == {0: {"img_size": 160}, 37: {"aa": "rand-m7"}}
    assert config.model.model_kwargs == {"block": "acb"}


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["--epoch", "3"], "command line: unknown flag --epoch; did you mean --epochs?"),
        (["--epochs", "x"], "command line: epochs: expected int, got 'x'"),
        (["--epochs", "0"], "command line: epochs: expected int >= 1, got '0'"),
        (["--hflip", "2"], "command line: hflip: expected float <= 1.0, got '2'"),
        (["--lr", "inf"], "command line: lr: expected a finite number, got 'inf'"),
        (["--lr-scale", "{bias: .inf}"], "command line: lr_scale: expected a finite number, got"),
        (["--lr", "nan"], "command line: lr: expected float >= 0.0, got 'nan'"),
        (
            ["--amp-dtype", "bf16"],
            "command line: amp_dtype: expected one of auto, float32, bfloat16, float16, got 'bf16'",
        ),
        (["--train-interpolation", "bicubi"], "command line: train_interpolation: expected one of bilinear, bicubic"),
        (["--interpolation", "area"], "command line: interpolation: expected one of bilinear, bicubic, nearest, got"),
        (["--decay-epochs", "0"], "command line: decay_epochs: expected float > 0.0"),
        (["--progressive", "{1: {img_size: big}}"], "command line: img_size: expected int, got 'big'"),
        (["--progressive", "{1: {hflip: 3}}"], "command line: hflip: expected float <= 1.0, got 3"),
        (["--lr"], "command line: argument --lr: expected one argument"),
        (["stray"], "command line: unrecognized arguments: stray"),
        (["--scale", "wide"], "command line: scale: expected float, got 'wide'"),
        (["--lr-scale", "{bias: 1, bias: 2}"], "command line: lr_scale, line 1: not readable as YAML: key 'bias' is"),
        (["--clip-grad", "0"], "command line: clip_grad: expected float > 0.0, got '0'"),
        (["--aa", "rand-mX"], "command line: aa: expected a policy in timm's notation, as original or rand-m9-mstd0.5"),
        (["--aa", "autoaugment"], "command line: aa: expected a policy in timm's notation"),
        (["--device", "meta"], "command line: device: expected auto, cpu, cuda, cuda:N, mps or xpu, got 'meta'"),
        (["--threads", "100000"], f"command line: threads: expected int <= {MAX_CROWD}, got '100000'"),
        (["--workers", "99999"], f"command line: workers: expected int <= {MAX_CROWD}, got '99999'"),
        (["--img-size", "0"], "command line: img_size: expected int >= 8, got '0'"),
        (["--img-size", "100000"], "command line: img_size: expected int <= 8192, got '100000'"),
        (["--seed", "99999999999999999999"], "command line: seed: expected int"),
        (["--epochs", "1", "--warmup-epochs", "5"], "warmup_epochs: 5 of 1 epochs; give fewer --warmup-epochs"),
        (["--results-file", "a.txt"], "command line: results_file: expected a name ending in .json or .csv or .md"),
        (["--results-file", "no/such/a.md"], "the folder of no/such/a.md does not exist"),
    ],
)
def test_a_wrong_flag_is_named(words, wanted):
    with pytest.raises(UsageError) as error:
        train_config(*words)
    assert str(error.value).startswith(wanted) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("epoch: 3", "unknown key 'epoch'; did you mean epochs?"),
        ("lr: fast", "lr: expected float, got 'fast'"),
        ("lr:", "lr: no value given (leave the line out for the default)"),
        ("epochs: 1.5", "epochs: expected int, got 1.5"),
        ("lr: 1\nepochs: 0", "epochs: expected int >= 1, got 0"),
        ("sched: cosin", "sched: expected one of cosine, tanh, step, multistep, poly, none, got 'cosin'; did you mean"),
        ("model_ema: 3", "model_ema: "),
        ("- lr", "expected lines 'key: value', got list"),
        ("seed: 1:30", "seed: expected int, got '1:30'"),
        ("model_ema: yes", "model_ema: expected bool, got 'yes'"),
    ],
)
def test_a_wrong_line_of_a_file_is_named_with_the_file(tmp_path, text, wanted):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        train_config("--config", str(file))
    assert str(error.value).startswith(f"{file}: {wanted}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("lr: [", "line 1: not readable as YAML"),
        ("!!python/object/apply:os.system [id]", "line 1: not readable as YAML"),
        ("lr: 1\nepochs: 2\nlr: 3", "line 3: not readable as YAML: key 'lr' is given twice"),
        ("lr_scale: {bias: 1, bias: 2}", "line 1: not readable as YAML: key 'bias' is given twice"),
        ("model_kwargs: &a {b: *a}", "line 1: not readable as YAML: alias *a: write the value out"),
        ("freeze: &a [x, x]\nno_decay: [*a, *a]", "line 2: not readable as YAML: alias *a"),
        ("model_kwargs: " + "[" * 100_000, "line 1: not readable as YAML: nested more than 8 deep"),
        ("model_kwargs: " + "{a: " * 5000, "line 1: not readable as YAML: nested more than 8 deep"),
        ("? [lr]\n: 3", "line 1: not readable as YAML"),
        ("lr: 1\n" * 200_000, "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_the_line(tmp_path, text, wanted):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        train_config("--config", str(file))
    message = str(error.value).replace(f"{file}: ", f"{file}, ")
    assert message.startswith(f"{file}, {wanted}") and "\n" not in message and len(message) < 400


def test_zeros_in_front_do_not_make_a_number_octal(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 010\n")
    assert train_config("--config", str(tmp_path / "recipe.yaml")).schedule.epochs == 10


def test_two_outputs_do_not_share_a_file(tmp_path):
    flags = ["--per-class", str(tmp_path / "a.csv"), "--confusion", f"{tmp_path}/../{tmp_path.name}/a.csv"]
    with pytest.raises(UsageError, match=r"--confusion and --per-class both name .*a\.csv"):
        parse(ValidateConfig, flags, "validate.py")


@pytest.mark.parametrize(
    "policy", ["original", "originalr-mstd0.5", "v0", "3a", "rand-m9-mstd0.5-inc1-n3-p0.4", "augmix"]
)
def test_timms_policies_are_accepted(policy):
    assert train_config("--aa", policy).augment.aa == policy


def test_a_smoke_run_may_warm_up_longer_than_it_trains():
    assert train_config("--smoke", "--epochs", "1", "--warmup-epochs", "5").schedule.warmup_epochs == 5


def test_a_missing_recipe_lists_near_ones():
    with pytest.raises(ValueError, match=r"quikstart.*quickstart"):
        train_config("--config", "quikstart")


def test_a_recipe_goes_by_name_or_path():
    assert train_config("--config", "quickstart") == train_config("--config", str(find_config("quickstart")))


def test_settings_of_a_run_take_the_place_of_the_defaults():
    before = flatten(asdict(train_config("--lr", "0.5", "--epochs", "3")))
    again = parse(TrainConfig, ["--epochs", "4"], "train.py", base=before)
    assert (again.optim.lr, again.schedule.epochs) == (0.5, 4)


def test_no_two_settings_share_a_name_and_each_has_help(capsys):
    for config_class in (TrainConfig, ValidateConfig):
        sections = asdict(config_class())
        assert len(flatten(sections)) == sum(map(len, sections.values()))
    with pytest.raises(SystemExit) as stop:
        train_config("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for section in asdict(TrainConfig()).values():
        for name in section:
            assert f"--{name.replace('_', '-')}" in text


def test_the_flags_a_timm_user_knows_are_there():
    known = {f.name for section in fields(TrainConfig()) for f in fields(getattr(TrainConfig(), section.name))}
    timm = "model checkpoint data_dir dataset batch_size epochs lr opt sched weight_decay img_size num_classes workers"
    timm += " output resume smoothing mixup cutmix aa reprob remode recount model_ema model_ema_decay clip_grad seed"
    timm += " grad_accum_steps amp_dtype channels_last sync_bn layer_decay warmup_epochs warmup_lr min_lr drop hflip"
    assert set(timm.split()) <= known


def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(capsys):
    assert main(["--lr", "x"], command="train") == 2
    output = capsys.readouterr()
    assert output.err == "train.py: error: command line: lr: expected float, got 'x'\n" and not output.out


@pytest.mark.parametrize("name", list_configs())
def test_every_recipe_parses_and_says_what_it_is(name):
    text = find_config(name).read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert train_config("--config", name).model.model
    assert any("train.py --config" in line for line in header)
    assert "top-1" in " ".join(header)
