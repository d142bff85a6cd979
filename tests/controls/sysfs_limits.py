"""Trees of files like those of the kernel, with limits that can be set."""

from pathlib import Path


def package(root, number, limit_w, max_w=None, first="long_term"):
    """Make a processor package in powercap; the first of two constraints has this name."""
    path = root / "class" / "powercap" / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    other = "short_term" if first == "long_term" else "long_term"
    files = {"name": f"package-{number}", "enabled": "1", "energy_uj": "1000"}
    for i, name in enumerate((first, other)):
        power_w = limit_w if name == "long_term" else 2 * limit_w
        files[f"constraint_{i}_name"] = name
        files[f"constraint_{i}_power_limit_uw"] = str(round(power_w * 1e6))
        if max_w is not None and name == "long_term":
            files[f"constraint_{i}_max_power_uw"] = str(round(max_w * 1e6))
    write(path, files)
    return path


def limit_w(package):
    """Return the limit of a package's first constraint; 0 while another program writes it."""
    return int((package / "constraint_0_power_limit_uw").read_text() or 0) / 1e6


def hwmon(root, number, name, address, **values):
    """Make a hwmon directory of a PCI device."""
    device = root / "devices" / address
    device.mkdir(parents=True)
    path = root / "class" / "hwmon" / f"hwmon{number}"
    path.mkdir(parents=True)
    (path / "device").symlink_to(device)
    write(path, {"name": name} | {file: str(round(value)) for file, value in values.items()})
    return path


def write(directory: Path, files):
    for name, text in files.items():
        (directory / name).write_text(text + "\n")
