"""Settings of the user: `MLLD_*` variables over defaults.

Importing this costs some 0.1 s of pydantic, so only commands that make sandboxes do; a script without an
environment block never pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from runner import environ
from runner.errors import BadOption


class Settings(BaseSettings):
    """What the user has settled outside of any module. Options of the command line go before."""

    model_config = SettingsConfigDict(env_prefix="MLLD_", frozen=True, extra="ignore")

    profile: str | None = Field(default=None, description="profile to use where none is asked for")
    profile_strict: bool = Field(default=False, description="no permitted profile is an error, not a warning")
    provider: Literal["docker", "local"] | None = Field(default=None, description="where environments run")
    agent: str | None = Field(default=None, description="agent to use where the module names none")
    runtime: str | None = Field(default=None, description="OCI runtime of the engine, for example runsc")
    progress: Literal["auto", "plain", "none"] = Field(default="auto", description="how progress is shown")
    ca_bundle: Path | None = Field(default=None, description="authorities that remote servers may have, too (PEM)")
    timeout: float | None = Field(default=None, gt=0, description="seconds that an agent may take")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # No .env file: it belongs to the project, and a project must not be able to loosen the fence around itself.
        return (init_settings,)


def load(env: Mapping[str, str] | None = None) -> Settings:
    """Settings from these variables (default: those of the process). Errors: `BadOption` naming the variable."""
    source = EnvSettingsSource(Settings)
    given = environ.snapshot() if env is None else env
    source.env_vars = {name.lower(): value for name, value in given.items() if value}
    try:
        return Settings(**source())
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"MLLD_{str(first['loc'][0]).upper()}"
        raise BadOption(
            f"the variable {variable} has a value that cannot be used: {first['input']!r}",
            detail=str(first["msg"]),
            remedy=f"correct it, or unset {variable}",
        ) from None
