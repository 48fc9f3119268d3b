"""A classifier of trials as scikit-learn has them. Needs scikit-learn."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from .commands import pretrain, run
from .recordings import Recording


class RegimeClassifier(ClassifierMixin, BaseEstimator):
    """Which regime a trial is of, by the dynamics of its counts.

    `fit` learns a model (``regimed pretrain``), `predict_proba` streams each trial through it as
    the daemon would (``regimed evaluate``) and takes the mean of the posterior over the trial's
    second half. Both run the binary.

    Parameters
    ----------
    bin_width_s : float
        Width of a bin, seconds.
    steps : int, optional
        Training steps; the command's own number where it is not said.
    seed : int
        Seed of the training.
    flags : dict, optional
        Other flags of ``regimed pretrain``, as :func:`regimed.pretrain` takes them.

    Attributes
    ----------
    classes_ : ndarray [n_classes]
        The labels, in the order of `predict_proba`.
    n_features_in_ : int
        Channels.
    model_ : dict of str to bytes
        The model's files, by name: a fitted classifier can be pickled.
    """

    def __init__(
        self,
        *,
        bin_width_s: float = 0.01,
        steps: Optional[int] = None,
        seed: int = 1,
        flags: Optional[dict[str, Any]] = None,
    ):
        self.bin_width_s = bin_width_s
        self.steps = steps
        self.seed = seed
        self.flags = flags

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = True
        tags.non_deterministic = False
        return tags

    def _counts(self, X: ArrayLike) -> np.ndarray:
        found = check_array(X, ensure_2d=False, allow_nd=True, dtype="numeric")
        if found.ndim != 3:
            raise ValueError(
                f"X: expected counts [trials, bins, channels], found {found.ndim} dimensions"
            )
        return found

    def _recording(self, counts: np.ndarray, regime: Optional[np.ndarray]) -> Recording:
        trials, bins, channels = counts.shape
        labels = None if regime is None else np.repeat(regime, bins)
        return Recording(
            counts=counts.reshape(trials * bins, channels),
            bin_width_s=self.bin_width_s,
            regime=labels,
            trial_start=np.arange(trials) * bins,
            session="trials",
        )

    def fit(self, X: ArrayLike, y: ArrayLike) -> RegimeClassifier:
        """Learns the regimes.

        Parameters
        ----------
        X : array_like [trials, bins, channels]
            Counts: whole numbers from 0.
        y : array_like [trials]
            The label of each trial.

        Raises
        ------
        ValueError
            Counts or labels of another shape, fewer than two labels.
        RegimedError
            The command's own words.
        """
        counts = self._counts(X)
        labels = np.asarray(y)
        if labels.shape != (len(counts),):
            raise ValueError(f"y: expected {len(counts)} labels, found {labels.shape}")
        check_classification_targets(labels)
        classes, of = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y: expected at least 2 classes, found {len(classes)} class")
        names = np.array([f"c{i}" for i in range(len(classes))])
        # Folds are of whole trials, and trials of one label may lie together: mixed, every fold has
        # all.
        order = np.random.default_rng(self.seed).permutation(len(counts))
        recording = self._recording(counts[order], names[of[order]])
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model"
            pretrain(
                recording,
                out,
                progress=False,
                steps=self.steps,
                seed=self.seed,
                **(self.flags or {}),
            )
            self.model_ = {f.name: f.read_bytes() for f in out.iterdir() if f.is_file()}
        self.classes_ = classes
        self.n_features_in_ = counts.shape[2]
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probability of each class.

        Parameters
        ----------
        X : array_like [trials, bins, channels]
            Counts with as many channels as in `fit`; the number of bins may be another.

        Returns
        -------
        ndarray [trials, n_classes]
            Classes in the order of `classes_`; each row's sum is 1.
        """
        check_is_fitted(self)
        counts = self._counts(X)
        if counts.shape[2] != self.n_features_in_:
            raise ValueError(
                f"X: expected {self.n_features_in_} channels as in fit, found {counts.shape[2]}"
            )
        trials, bins, _ = counts.shape
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            model.mkdir()
            for name, content in self.model_.items():
                (model / name).write_bytes(content)
            file = self._recording(counts, None).save(Path(folder) / "trials.npz")
            out = Path(folder) / "decisions.npz"
            run("evaluate", file, model=model, decisions=out, report=Path(folder) / "report")
            with np.load(out) as decided:
                posterior = decided["posterior"]
        late = posterior.reshape(trials, bins, -1)[:, bins // 2 :].mean(axis=1)
        names = json.loads(self.model_["model.json"])["regime_names"]
        order = [names.index(f"c{i}") for i in range(len(self.classes_))]
        found = late[:, order].astype(float)
        return found / found.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable class of each trial, [trials]."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
