"""Packaging, driven by settings.ini so that nbdev and pip read the same facts."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

def absolute(text):
    "README.md with links that also work outside the repository: pictures as files, others as pages of it."
    raw = cfg["git_url"].replace("github.com", "raw.githubusercontent.com") + f"/{cfg['branch']}/"
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", lambda link: link[1] + raw, text)
    return re.sub(r"(\]\()(?!https?:|#)", lambda link: f"{link[1]}{cfg['git_url']}/blob/{cfg['branch']}/", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=absolute(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"] + "/", "Issues": cfg["git_url"] + "/issues"},
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    packages=find_packages(include=["dnerf", "dnerf.*"]),
    package_data={"dnerf": ["assets/*"]},
    include_package_data=True,
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={
        extra: cfg[f"{extra}_requirements"].split()
        for extra in ("dev", "phones", "sweeps", "ray", "live", "app", "credentials", "wandb", "mlflow", "browser", "types")},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["dnerf=dnerf._modidx:d"]},
    zip_safe=False,
)
