"""The environment that a student writes, as the text of a file."""

POINT_MASS = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class PointMass(gym.Env):
    observation_space = spaces.Box(-2e3, 2e3, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, limit=25):
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.speed, self.n = self.np_random.uniform(-1, 1), 0.0, 0
        return self.observation(), {}

    def step(self, action):
        self.n += 1
        self.speed = float(np.clip(self.speed + 0.1 * action[0], -1, 1))
        self.position = float(np.clip(self.position + 0.1 * self.speed, -2, 2))
        return self.observation(), -abs(self.position), False, self.n == self.limit, {}

    def observation(self):
        return np.array([self.position, self.speed], np.float32)
"""
