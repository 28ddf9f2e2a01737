"""Commands for other software: the script for Blender."""

import click


@click.command("blender-script")
def blender_script() -> None:
    """Print where the script lies that opens a scene, with its camera and photo, in Blender.

    blender --python "$(wm3dr blender-script)" -- out/photo.glb --photo photo.jpg
    """
    from pathlib import Path

    click.echo(Path(__file__).with_name("blender_scene.py"))
