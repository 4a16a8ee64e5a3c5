"""How a network learns: learning rates, schedules, and regularization against memorizing the training videos."""

from prernn.training.learning.learning import DEFAULT_LEARNING, Learning
from prernn.training.learning.rates import SPARSE_POWER, rate_factors, rate_groups
from prernn.training.learning.schedule import Schedule

__all__ = ["DEFAULT_LEARNING", "SPARSE_POWER", "Learning", "Schedule", "rate_factors", "rate_groups"]
