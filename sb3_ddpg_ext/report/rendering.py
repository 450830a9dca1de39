"""The templates that pages are made from."""

import jinja2


def environment(*packages: str) -> jinja2.Environment:
    """
    :param packages: Packages within this one that have templates of their own, beside those of ``report``
    :return: The environment that finds them. What is filled into HTML is escaped: it may contain anything
    """
    loaders = [jinja2.PackageLoader(f"sb3_ddpg_ext.{package}") for package in (*packages, "report")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
