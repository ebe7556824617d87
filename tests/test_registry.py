"""The table of named parts."""

from __future__ import annotations

import pytest

from pyro_mmvae.registry import Registry


def make_registry() -> Registry[int]:
    registry = Registry[int]("likelihood", "Register your own with register_likelihood('name')")
    registry.register("laplace", 1, built_in=True)
    registry.register("normal", 2)
    return registry


def test_registry_is_a_mapping_in_order_of_registration() -> None:
    assert dict(make_registry()) == {"laplace": 1, "normal": 2}
    assert len(make_registry()) == 2


def test_lookup_of_unknown_name_lists_names_and_suggests_the_closest() -> None:
    with pytest.raises(ValueError, match=r"unknown likelihood 'norml', did you mean 'normal'\? Available: laplace, n"):
        make_registry().lookup("norml")
    with pytest.raises(ValueError, match=r"unknown likelihood 3\. Available: .*Register your own with"):
        make_registry().lookup(3)  # type: ignore[arg-type]


def test_register_refuses_a_taken_or_empty_name() -> None:
    registry = make_registry()
    with pytest.raises(ValueError, match="likelihood 'normal' is already registered"):
        registry.register("normal", 3)
    with pytest.raises(ValueError, match="must be a non-empty string, got ''"):
        registry.register("", 3)


def test_unregister_removes_users_parts_and_refuses_built_in_ones() -> None:
    registry = make_registry()
    registry.unregister("normal")
    assert list(registry) == ["laplace"]
    with pytest.raises(ValueError, match="'laplace' is built in"):
        registry.unregister("laplace")
    with pytest.raises(ValueError, match="unknown likelihood 'normal'"):
        registry.unregister("normal")


def test_restore_puts_a_snapshot_back() -> None:
    registry = make_registry()
    before = registry.snapshot()
    registry.register("poisson", 3)
    registry.restore(before)
    assert "poisson" not in registry
