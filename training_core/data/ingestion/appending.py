"""What rows that are added to a data set have to have in common with it."""

from training_core.data.ingestion.identifiers import name_some, positions_of
from training_core.data.ingestion.row_index import RowIndex
from training_core.data.source import SourceConfig
from training_core.data.storage.dataset import Dataset
from training_core.errors import DataError
from training_core.schema import ColumnSpec, ModalitySpec


def check_alike(base: Dataset, config: SourceConfig) -> None:
    """The source describes rows of the same kind as those of `base`.

    Raises:
        DataError: it does not.
    """
    kind, names = base.spec.task.kind, config.task.target.names
    if kind != config.task.kind or base.manifest["target_names"] != list(names):
        raise DataError(
            f"{base.ref} predicts {', '.join(base.manifest['target_names'])} ({kind}), the rows to append have "
            f"{', '.join(names)} ({config.task.kind}); prepare them as a data set of another name"
        )
    if set(base.spec.names) != set(config.modalities):
        raise DataError(
            f"{base.ref} has the modalities {', '.join(base.spec.names)}, the rows to append have "
            f"{', '.join(config.modalities)}; list the same ones"
        )
    before = base.manifest["lineage"].get("source", {}).get("modalities", {})
    for name, modality in config.modalities.items():
        known = before.get(name, {}).get("columns", ())
        # the columns a vector is made of are not kept with it, so nothing else would notice
        if modality.kind == "vector" and known and modality.columns and list(known) != list(modality.columns):
            raise DataError(
                f"modality '{name}' is made of {', '.join(known)} in {base.ref} and of {', '.join(modality.columns)} "
                "in the rows to append; list the same columns in the same order"
            )
    if config.id is None:
        raise DataError(f"rows are appended to {base.ref} by their ids; name their column with `id`")


def check_fits(base: Dataset, config: SourceConfig, index: RowIndex) -> None:
    """The rows are of the same kind as those of `base`, and new.

    Raises:
        DataError: they are not.
    """
    check_alike(base, config)
    for what, there, here in (("groups", base.groups(), index.groups), ("times", base.times(), index.times)):
        if (there is None) != (here is None):
            has, lacks = ("has", "have none") if there is not None else ("has no", "have")
            raise DataError(f"{base.ref} {has} {what} and the rows to append {lacks}; describe both alike")
    if (known := positions_of(index.ids, base.ids()) >= 0).any():
        raise DataError(
            f"{base.ref} has {name_some(index.ids[known])} already; append only new rows, or prepare all of them anew"
        )


def extended_modality(old: ModalitySpec, new: ModalitySpec) -> ModalitySpec:
    """The spec of a modality with rows added: known categories keep their codes, new ones come after them."""
    if (old.kind, old.shape, [c.name for c in old.columns]) != (new.kind, new.shape, [c.name for c in new.columns]):
        raise DataError(
            f"modality '{old.name}' is {_form(old)} in the data set and {_form(new)} in the rows to append; "
            "give them the same form"
        )
    columns = []
    for before, after in zip(old.columns, new.columns, strict=True):
        if (before.categories is None) != (after.categories is None):
            held = "numbers" if before.categories is None else "categories"
            raise DataError(
                f"modality '{old.name}': '{before.name}' holds {held} in the data set; list it the same way"
            )
        known = before.categories
        more = () if known is None else tuple(c for c in after.categories or () if c not in known)
        columns.append(ColumnSpec(name=before.name, categories=None if known is None else (*known, *more)))
    return old.model_copy(update={"columns": tuple(columns)})


def _form(spec: ModalitySpec) -> str:
    columns = f" of {', '.join(column.name for column in spec.columns)}" if spec.columns else f" {list(spec.shape)}"
    return f"{spec.kind}{columns}"
