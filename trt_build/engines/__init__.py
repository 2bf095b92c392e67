# SPDX-License-Identifier: Apache-2.0
"""The backends behind the `Engine` protocol, and what opens and compiles them."""
