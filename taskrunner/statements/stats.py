"""What ended, over time, in SQL: `task_stats` added up for people, and made coarser as it ages."""


def each(sum_: str) -> str:
    """Return the array of a histogram's thirteen sums; # stands for the place."""
    return "ARRAY[" + ", ".join(sum_.replace("#", str(place)) for place in range(1, 14)) + "]"


# ── made coarser ─────────────────────────────────────────────────────────────────────────────────────────────────────

# The first minute in the given time that is not in its span's one row yet. By task_stats_pkey, from where the last one
# ended.
FINE = """
SELECT s.minute FROM taskrunner.task_stats s
 WHERE s.minute >= %(after)s AND s.minute < %(before)s
   AND (s.runner_id <> '00000000-0000-0000-0000-000000000000'
        OR date_part('epoch', s.minute)::bigint %% %(span)s::bigint <> 0)
 ORDER BY s.minute LIMIT 1
"""

# The rows of one span become one of no runner, dated with its begin, for each tenant, queue, type and outcome: every
# sum stays what it was. Of two janitors the second waits for the first one's rows and finds them gone; what somebody
# adds to an old minute meanwhile makes it into the sum, or stays a row of its own for the next round.
ROLL_UP = (
    """
WITH gone AS (
    DELETE FROM taskrunner.task_stats s
     WHERE s.minute >= %(begin)s AND s.minute < %(end)s
       AND (s.runner_id <> '00000000-0000-0000-0000-000000000000' OR s.minute <> %(begin)s)
    RETURNING s.*
)
INSERT INTO taskrunner.task_stats AS s (minute, runner_id, tenant, queue, type, outcome, count,
       run_seconds, wait_seconds, run_histogram, wait_histogram)
SELECT %(begin)s, '00000000-0000-0000-0000-000000000000', g.tenant, g.queue, g.type, g.outcome, sum(g.count)::bigint,
       sum(g.run_seconds), sum(g.wait_seconds),
       """
    + each("coalesce(sum(g.run_histogram[#])::bigint, 0)")
    + """,
       """
    + each("coalesce(sum(g.wait_histogram[#])::bigint, 0)")
    + """
  FROM gone g
 GROUP BY g.tenant, g.queue, g.type, g.outcome
 ORDER BY g.tenant, g.queue, g.type, g.outcome
ON CONFLICT (minute, runner_id, tenant, queue, type, outcome) DO UPDATE
   SET count = s.count + EXCLUDED.count,
       run_seconds = s.run_seconds + EXCLUDED.run_seconds,
       wait_seconds = s.wait_seconds + EXCLUDED.wait_seconds,
       run_histogram = taskrunner.add_histograms(s.run_histogram, EXCLUDED.run_histogram),
       wait_histogram = taskrunner.add_histograms(s.wait_histogram, EXCLUDED.wait_histogram)
RETURNING 1
"""
)

# ── added up ─────────────────────────────────────────────────────────────────────────────────────────────────────────

# One pass over the time asked for, by task_stats_pkey, into cells (a step of the chart, a name, an outcome); what the
# charts show is added up from those: the outcomes of each step with their histograms, the same of each of the busiest
# names, and how much each of the busiest few had in each step. Sums of float8 cost two thirds of those of bigint.
SERIES = (
    """
WITH cell AS MATERIALIZED (
    SELECT floor(date_part('epoch', s.minute - %(begin)s) / %(step)s)::int AS place,
           CASE WHEN %(by)s = 'queue' THEN s.queue ELSE s.type END AS name, s.outcome, sum(s.count)::float8 AS count,
           """
    + each("sum(s.run_histogram[#]::float8)")
    + """ AS run,
           """
    + each("sum(s.wait_histogram[#]::float8)")
    + """ AS wait
      FROM taskrunner.task_stats s
     WHERE s.minute >= %(begin)s AND s.minute < %(end)s
       AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
       AND (%(type)s::text IS NULL OR s.type = %(type)s)
       AND (%(queue)s::text IS NULL OR s.queue = %(queue)s)
     GROUP BY 1, 2, 3
), busiest AS MATERIALIZED (
    SELECT c.name, row_number() OVER (ORDER BY sum(c.count) DESC, c.name) AS number FROM cell c GROUP BY c.name
)
SELECT c.place, NULL AS name, c.outcome, sum(c.count) AS count,
       """
    + each("sum(c.run[#])")
    + """ AS run,
       """
    + each("sum(c.wait[#])")
    + """ AS wait
  FROM cell c GROUP BY c.place, c.outcome
 UNION ALL
SELECT NULL, c.name, c.outcome, sum(c.count),
       """
    + each("sum(c.run[#])")
    + """,
       """
    + each("sum(c.wait[#])")
    + """
  FROM cell c JOIN busiest b ON b.name = c.name AND b.number <= %(most)s
 GROUP BY c.name, c.outcome
 UNION ALL
SELECT c.place, c.name, c.outcome, sum(c.count), NULL, NULL
  FROM cell c JOIN busiest b ON b.name = c.name AND b.number <= %(few)s
 GROUP BY c.place, c.name, c.outcome
"""
)
