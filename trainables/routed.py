"""An old door: `README.md` of folders exported before `trainables.load` names it."""

from trainables.routing.routed_model import RoutedModel as RoutedModel
