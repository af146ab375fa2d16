"""The page of a plan: a data set in pictures and numbers, what is doubtful about it, and what was chosen for it."""

from medpretrain3d.plan_page.page import is_plan_page, write_plan_page

__all__ = ["is_plan_page", "write_plan_page"]
