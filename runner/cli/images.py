"""`mlld sandbox images`: what sandboxes are made of."""

from __future__ import annotations

import click

from runner.cli.lazy import Command, LazyGroup

images = LazyGroup(
    name="images",
    table={
        "build": ("runner.cli.images:build", "Make the images that every run needs."),
        "list": ("runner.cli.images:list_", "The images that were made here."),
        "prune": ("runner.cli.images:prune", "Remove those that this version no longer needs."),
    },
    help="Build, list and prune the images.",
    no_args_is_help=True,
)


@click.command(cls=Command)
def build() -> None:
    """Make the images that every run needs, if they are not there."""
    from runner.doctor import Machine, repair

    repair(Machine.here(), say=lambda line: click.echo(line, err=True))


@click.command(cls=Command, name="list")
def list_() -> None:
    """The images that were made here, newest first."""
    from runner.backends.docker_errors import connect
    from runner.backends.docker_images import DockerImages
    from runner.doctor import Machine, store_of

    store = store_of(DockerImages(connect()), Machine.here())
    for image in store.ours():
        click.echo(f"{image.size / 1e6:7.0f} MB  {', '.join(image.tags)}")


@click.command(cls=Command)
def prune() -> None:
    """Remove the images that were made here and that this version does not need to make runs."""
    from runner.backends.docker_errors import connect
    from runner.backends.docker_images import DockerImages
    from runner.doctor import Machine, standard, store_of

    store = store_of(DockerImages(connect()), Machine.here())
    removed = store.prune(standard(store))
    for tag in removed:
        click.echo(tag)
    click.echo(f"{len(removed)} removed", err=True)
