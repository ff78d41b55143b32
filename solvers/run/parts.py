"""The keys of a restoration's configuration. Nothing heavy is imported to check them."""

from data.files import Refusal, nearest
from ldm import config as configuration

PARTS = ("prior", "operator", "likelihood", "solver")


def checked(config: configuration.Node) -> configuration.Node:
    """The configuration, whose keys are all known. Raises Refusal for the first that is not."""
    for key in config.keys() - set(PARTS):
        raise Refusal(f"{config.locate(key)}: unknown key{nearest(key, PARTS)}")
    return config
