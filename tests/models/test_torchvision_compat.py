from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_timm_imports_and_runs_beside_any_torchvision():
    out = run(
        "from nemo_image_curate.models.torchvision_compat import import_timm\n"
        "import torch\n"
        "timm = import_timm()\n"
        "assert timm is import_timm()\n"
        "model = timm.create_model('test_vit', num_classes=3).eval()\n"
        "print(tuple(model(torch.zeros(2, 3, 160, 160)).shape))\n"
        "import torchvision.transforms\n"
    )
    assert out.strip() == "(2, 3)"


def test_after_a_failed_import_by_the_user():
    run(
        "try:\n    import timm\nexcept RuntimeError:\n    pass\n"
        "from nemo_image_curate.models.torchvision_compat import import_timm\n"
        "assert import_timm().__name__ == 'timm'\n"
    )


def test_other_errors_are_not_touched(tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('something else')")
    out = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from nemo_image_curate.models.torchvision_compat import import_timm\n"
        "try:\n    import_timm()\nexcept RuntimeError as error:\n    print(error)\n"
    )
    assert out.strip() == "something else"


def test_an_operator_that_stays_missing_ends(tmp_path):
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::gone does not exist')"
    )
    out = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from nemo_image_curate.models.torchvision_compat import import_timm\n"
        "try:\n    import_timm()\nexcept RuntimeError as error:\n    print(error)\n"
    )
    assert out.strip() == "operator torchvision::gone does not exist"


def test_importing_our_modules_loads_nothing_heavy():
    out = run(
        "import sys\n"
        "import nemo_image_curate.models.encoder_identity\n"
        "import nemo_image_curate.classifiers.laion_networks\n"
        "print([m for m in ('torch', 'timm', 'safetensors', 'torchvision') if m in sys.modules])\n"
    )
    assert out.strip() == "[]"
