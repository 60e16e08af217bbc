"""The tests of aiopool, in tiers by folder; what every test may use is in `helpers` and `jobs`.

core is pure decisions, run a scripted backend in virtual time; backends, wire, worker and addons
test one room each; e2e starts real programs. `conftest` looks after all of them.
"""
