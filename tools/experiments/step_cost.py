#!/usr/bin/env python3
"""Multiply-accumulates of a training step of the network that these flags of `tolaria-train` begin with."""

from __future__ import annotations

import sys

from esper.core.settings.config import load
from esper.tolaria.config import TrainConfig
from esper.tolaria.flags import given
from esper.tolaria.launcher import parser
from esper.tolaria.task.prepare import prepare

options = parser().parse(sys.argv[1:])
config = load(TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags=given(options)).value
print(prepare(config).executor.macs.training * config.batch_size)
