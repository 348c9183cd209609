"""The claim of a fair queue in SQL: round robin over the tenants with due work, by index task_fair.

The index is (queue, type, fair_tenant, priority, maturity_at, id); only pending rows of fair queues are in it.
"""

from taskrunner.statements.cycle import CLAIMED, ENDING

# Where to claim is given as in CYCLE: `fronts`, each with its floor. Nothing is claimed once the queue is not fair.
# `|| '{}'` makes one copy of the weights that is not compressed, for they are looked into at each step.
_LINE = """,
line AS MATERIALIZED (
    SELECT q.weights || '{}'::jsonb AS weights
      FROM taskrunner.queue_settings q
     WHERE %(room)s > 0 AND q.queue = %(queue)s AND q.fair AND NOT q.paused
       AND EXISTS (SELECT FROM taskrunner.runner r WHERE r.id = %(runner_id)s AND r.lease_until > taskrunner.clock())
), front AS MATERIALIZED (
    SELECT f.type, f.priority, least(f.floor_at, taskrunner.clock() - interval '0.5 seconds') AS floor_at, f.floor_id
      FROM unnest(%(types)s::text[], %(priorities)s::int[], %(floors_at)s::timestamptz[], %(floor_ids)s::uuid[])
           AS f(type, priority, floor_at, floor_id)
     CROSS JOIN line
), kind AS MATERIALIZED (
    SELECT DISTINCT f.type FROM front f
)"""

# The tenant that comes next in descending order; behind the last one the first, once.
_NEXT = """               SELECT coalesce(
                   (SELECT max(x.fair_tenant)
                      FROM kind k
                     CROSS JOIN LATERAL (
                           SELECT t.fair_tenant FROM taskrunner.task t
                            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = k.type
                              AND t.fair_tenant < s.tenant
                            ORDER BY t.fair_tenant DESC, t.priority DESC, t.maturity_at DESC, t.id DESC LIMIT 1) x),
                   CASE WHEN s.lap = 0 THEN
                   (SELECT max(x.fair_tenant)
                      FROM kind k
                     CROSS JOIN LATERAL (
                           SELECT t.fair_tenant FROM taskrunner.task t
                            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = k.type
                              AND t.fair_tenant IS NOT NULL
                            ORDER BY t.fair_tenant DESC, t.priority DESC, t.maturity_at DESC, t.id DESC LIMIT 1) x)
                   END) AS tenant
"""

# What it weighs, and `spent`, what the cursor's tenant has had of its turn, or `turns`.
_WEIGHT = """               SELECT a.weight, CASE WHEN n.tenant < s.tenant THEN s.lap ELSE 1 END AS lap,
                      CASE WHEN s.place = 0 AND n.tenant = %(tenant)s AND %(left)s > 0
                           THEN greatest(a.weight * %(turns)s - %(left)s, 0) ELSE 0 END AS spent
                 FROM (SELECT greatest(coalesce((line.weights ->> n.tenant)::int, 1), 1) AS weight) a
"""

# The skip scan, from the cursor: tenants in descending order, by `before`, then from the top down to it again.
# Backwards for the reason of SURVEY: the dead entries are those of the earliest maturities. A step is one descent a
# type for the next tenant, and one a front for what is due of it: no more than the rest of its turn. It ends when
# that makes enough, or has come round, or behind 2,000 tenants: those whose tasks are all immature are passed by.
# OFFSET 0 keeps the tenant from being looked for twice.
_CIRCLE = (
    """,
circle AS MATERIALIZED (
    WITH RECURSIVE step(place, lap, tenant, weight, spent, due, load) AS (
        SELECT 0, 0, %(before)s::text COLLATE "C", 0, 0, 0::bigint, 0::bigint FROM line
        UNION ALL
        SELECT s.place + 1, w.lap, n.tenant, w.weight, w.spent, d.due, s.load + d.due
          FROM step s
         CROSS JOIN line
         CROSS JOIN LATERAL (
"""
    + _NEXT
    + """               OFFSET 0) n
         CROSS JOIN LATERAL (
"""
    + _WEIGHT
    + """               OFFSET 0) w
         CROSS JOIN LATERAL (
               SELECT count(*) AS due
                 FROM (SELECT FROM front f
                        CROSS JOIN LATERAL (
                              SELECT FROM taskrunner.task t
                               WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type
                                 AND t.fair_tenant = n.tenant AND t.priority = f.priority
                                 AND t.maturity_at <= taskrunner.clock()
                                 AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
                                 AND (%(suspects)s OR t.crashes = 0)
                               ORDER BY t.maturity_at, t.id LIMIT least(w.weight - w.spent, %(room)s)) t
                        LIMIT least(w.weight - w.spent, %(room)s)) o) d
         WHERE s.place < 2000 AND s.load < %(room)s AND n.tenant IS NOT NULL
           AND (w.lap = 0 OR n.tenant >= %(before)s)
    )
    SELECT s.place, s.tenant, s.weight, s.spent, s.due, s.load FROM step s WHERE s.place > 0
)"""
)

# How much of each tenant: the rest of its turn; where all tenants together have less than is wanted in one round, as
# many rounds as would fill it if all had work for them; of four tenants or fewer sixteen rounds, and never more: who
# comes now waits for what is in flight and what has just come, less than fifty tasks of one tenant alone. What is not
# filled is left to the next claim, which follows at once (`more`).
_PORTION = """,
lap AS MATERIALIZED (
    SELECT count(*) < 2000 AND coalesce(max(c.load), 0) < %(room)s AS whole,
           greatest(max(c.load), 1) AS load, count(*) FILTER (WHERE c.due > 0) <= 4 AS few
      FROM circle c
), portion AS MATERIALIZED (
    SELECT c.place, c.tenant, c.weight, c.spent,
           least(CASE WHEN NOT l.whole THEN c.weight - c.spent
                      WHEN l.few THEN c.weight * 16 - c.spent
                      ELSE c.weight * least((%(room)s + l.load - 1) / l.load, 16) - c.spent END, %(room)s) AS room
      FROM circle c CROSS JOIN lap l
     WHERE c.due > 0
)"""

# As in CYCLE_MERGED: `head` reads without locks, in the order of the turns; `share` is how many that makes of each
# tenant, type and priority; `taken` takes that many by SKIP LOCKED. So at most n rows are locked, and of a tenant whose
# first row somebody holds the next one is taken.
_TAKEN = """,
head AS MATERIALIZED (
    SELECT p.place, p.tenant, p.weight, d.type, d.priority, d.floor_at, d.floor_id, d.number,
           (d.number - 1 + p.spent) / p.weight AS turn, (d.number - 1 + p.spent) %% p.weight AS step
      FROM portion p
     CROSS JOIN LATERAL (
           SELECT f.type, f.priority, f.floor_at, f.floor_id,
                  row_number() OVER (ORDER BY f.priority DESC, d.maturity_at, d.id) AS number
             FROM front f
            CROSS JOIN LATERAL (
                  SELECT t.maturity_at, t.id FROM taskrunner.task t
                   WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type
                     AND t.fair_tenant = p.tenant AND t.priority = f.priority
                     AND t.maturity_at <= taskrunner.clock()
                     AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
                     AND (%(suspects)s OR t.crashes = 0)
                   ORDER BY t.maturity_at, t.id LIMIT p.room) d
            ORDER BY number LIMIT p.room) d
     ORDER BY turn, p.place, d.number
     LIMIT %(room)s
), share AS MATERIALIZED (
    SELECT h.tenant, h.type, h.priority, h.floor_at, h.floor_id, count(*) AS room
      FROM head h
     GROUP BY h.tenant, h.type, h.priority, h.floor_at, h.floor_id
), taken AS MATERIALIZED (
    SELECT d.id
      FROM share f
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type
              AND t.fair_tenant = f.tenant AND t.priority = f.priority
              AND t.maturity_at <= taskrunner.clock() AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
              AND (%(suspects)s OR t.crashes = 0)
            ORDER BY t.maturity_at, t.id LIMIT f.room
              FOR UPDATE SKIP LOCKED) d
)"""

# `more`: not all that is due was looked at, so that the next claim should follow at once.
# Strays are rows of a fair queue without `fair_tenant`: written by a transaction that began before it was made fair,
# or by somebody's own SQL. They come when nothing else is due, so that the walk meets little else; by index task_claim.
_PICKED = """,
rest AS MATERIALIZED (
    SELECT NOT l.whole
           OR EXISTS (SELECT FROM portion p JOIN head h ON h.place = p.place
                       GROUP BY p.place, p.room HAVING count(*) >= p.room)
           OR (SELECT count(*) FROM head) >= %(room)s AS more
      FROM lap l
), stray AS MATERIALIZED (
    SELECT d.id
      FROM front f
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type AND t.priority = f.priority
              AND t.maturity_at <= taskrunner.clock() AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
              AND (%(suspects)s OR t.crashes = 0) AND t.fair_tenant IS NULL
            ORDER BY t.maturity_at, t.id LIMIT %(room)s
              FOR UPDATE SKIP LOCKED) d
     WHERE %(strays)s AND NOT (SELECT r.more FROM rest r)
     LIMIT %(room)s - (SELECT count(*) FROM taken)
), picked AS MATERIALIZED (
    SELECT p.id FROM taken p UNION ALL SELECT s.id FROM stray s
)"""

# One row more, without an id: the tenant whose turn it was last, what is left of that turn, whether there are more
# tenants than one claim takes from, the weights that are not 1, and whether there is more to be claimed.
_CURSOR = """UNION ALL
SELECT NULL, e.left_over, e.tenant, NULL, NULL, (NOT l.whole)::int,
       (SELECT jsonb_object_agg(p.tenant, p.weight) FROM portion p WHERE p.weight <> 1)::text,
       NULL, NULL, NULL, NULL, NULL, NULL, r.more
  FROM rest r
 CROSS JOIN lap l
 CROSS JOIN LATERAL (
       SELECT a.tenant, a.left_over
         FROM (SELECT 0 AS rank, c.tenant, 0::bigint AS left_over, c.place, 0::bigint AS turn
                 FROM circle c WHERE NOT l.whole AND (SELECT count(*) FROM head) < %(room)s
               UNION ALL
               SELECT 1, h.tenant, h.weight - 1 - h.step, h.place, h.turn FROM head h) a
        ORDER BY a.rank, a.turn DESC, a.place DESC, a.left_over LIMIT 1) e
"""

# Many tenants, of whom one round is enough, and no two fronts of the same priority: each is locked as it is met. A
# large claim takes two `turns` of each, for half of what a task costs here is the way to its tenant.
_WIDE = (
    """,
circle AS MATERIALIZED (
    WITH RECURSIVE step(place, lap, tenant, weight, spent, ids, load) AS (
        SELECT 0, 0, %(before)s::text COLLATE "C", 0, 0, '{}'::uuid[], 0 FROM line
        UNION ALL
        SELECT s.place + 1, w.lap, n.tenant, w.weight, w.spent, d.ids, s.load + cardinality(d.ids)
          FROM step s
         CROSS JOIN line
         CROSS JOIN LATERAL (
"""
    + _NEXT
    + """               OFFSET 0) n
         CROSS JOIN LATERAL (
"""
    + _WEIGHT
    + """               OFFSET 0) w
         CROSS JOIN LATERAL (
               SELECT ARRAY(
                   SELECT t.id
                     FROM front f
                    CROSS JOIN LATERAL (
                          SELECT t.id FROM taskrunner.task t
                           WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type
                             AND t.fair_tenant = n.tenant AND t.priority = f.priority
                             AND t.maturity_at <= taskrunner.clock()
                             AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
                             AND (%(suspects)s OR t.crashes = 0)
                           ORDER BY t.maturity_at, t.id LIMIT least(w.weight * %(turns)s - w.spent, %(room)s - s.load)
                             FOR UPDATE SKIP LOCKED) t
                    LIMIT least(w.weight * %(turns)s - w.spent, %(room)s - s.load)) AS ids
               OFFSET 0) d
         WHERE s.place < 2000 AND s.load < %(room)s AND n.tenant IS NOT NULL
           AND (w.lap = 0 OR n.tenant >= %(before)s)
    )
    SELECT s.place, s.tenant, s.weight, s.spent, s.ids, s.load FROM step s WHERE s.place > 0
), picked AS MATERIALIZED (
    SELECT unnest(c.ids) AS id FROM circle c
)"""
)

_WIDE_CURSOR = """UNION ALL
SELECT NULL, c.weight * %(turns)s - c.spent - cardinality(c.ids), c.tenant, NULL, NULL,
       (c.load >= %(room)s OR c.place >= 2000)::int,
       (SELECT jsonb_object_agg(w.tenant, w.weight) FROM circle w WHERE w.weight <> 1)::text,
       NULL, NULL, NULL, NULL, NULL, NULL, true
  FROM (SELECT l.place, l.tenant, l.weight, l.spent, l.ids, l.load FROM circle l ORDER BY l.place DESC LIMIT 1) c
"""

CYCLE_WIDE = ENDING + _LINE + _WIDE + CLAIMED + _WIDE_CURSOR
"""One round trip: end, mark, claim from a fair queue of which more tenants have due tasks than are claimed."""

CYCLE_FAIR = ENDING + _LINE + _CIRCLE + _PORTION + _TAKEN + _PICKED + CLAIMED + _CURSOR
"""One round trip: end, mark, claim from a fair queue."""
