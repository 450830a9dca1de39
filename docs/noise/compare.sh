#!/usr/bin/env bash
# The comparison of noises that the README shows. Runs that are finished are skipped.
set -euo pipefail
cd "$(dirname "$0")"
algos="custom_ddpg:hyperparams=agent.yml,action_noise=null"
for noise in ou {normal,ou,pink}", std: "{0.1,0.3,0.6} "ou, std: 0.3, correlation_time: 667" "normal, std: 0.3, schedule: linear"; do
  algos+=",custom_ddpg:hyperparams=agent.yml,action_noise={type: $noise}"
done
for env in Pendulum-v1 MountainCarContinuous-v0 HalfCheetah-v5; do
  sb3-ddpg compare --algos "$algos" --envs "$env" --seeds 5 --eval-episodes 10 --log-dir runs "$@"
done
