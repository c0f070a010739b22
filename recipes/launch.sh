# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# Sourced by each recipe's run.sh, which then calls: launch OVERRIDE...
# It checks the configuration (videomtr doctor: seconds, no Ray, no weights) and starts verl's own trainer with the same
# overrides. An error of the check ends it before a GPU is taken.
#   PYTHON=...   the interpreter that has verl and verl_videomtr (default: python3)
#   DOCTOR=0     start without the check
# `run.sh --cfg job` shows the configuration and starts nothing.
# shellcheck shell=bash
set -euo pipefail
PYTHON=${PYTHON:-python3}

# verl reports a failing entry point at DEBUG only; a module that is named here raises.
plugin=verl_videomtr.verl_plugin.register
if [[ ,${VERL_USE_EXTERNAL_MODULES:-}, != *",$plugin,"* ]]; then
    export VERL_USE_EXTERNAL_MODULES=${VERL_USE_EXTERNAL_MODULES:+$VERL_USE_EXTERNAL_MODULES,}$plugin
fi
export HYDRA_FULL_ERROR=${HYDRA_FULL_ERROR:-1}

launch() {
    local argument doctor=${DOCTOR:-1}
    for argument in "$@"; do
        # Hydra's own flags show something and start nothing.
        case $argument in
        --cfg | --cfg=* | -c | --info | --info=* | -i | --help | -h | --hydra-help) doctor=0 ;;
        esac
    done
    if [[ $doctor != 0 ]]; then
        "$PYTHON" -m verl_videomtr.cli doctor "$@"
    fi
    exec "$PYTHON" -m verl.trainer.main_ppo "$@"
}
