"""Queries that only read, as people write them: each must pass, in a tenant with a role and in one without."""

# ruff: noqa: E501 - a query a line

READING = r"""
SELECT sku, name, price, rank() OVER (PARTITION BY category ORDER BY price DESC) AS place FROM catalog_products
SELECT category, count(*) FILTER (WHERE price > 10) AS dear, avg(price)::numeric(10, 2) FROM catalog_products GROUP BY category HAVING count(*) > 0
SELECT category, currency, sum(price) FROM catalog_products GROUP BY GROUPING SETS ((category, currency), (category), ())
SELECT category, currency, count(*) FROM catalog_products GROUP BY ROLLUP (category), CUBE (currency)
SELECT date_trunc('month', placed_on) AS month, count(*) FROM sales_orders GROUP BY 1 ORDER BY 1 DESC NULLS LAST
SELECT o.*, l.n FROM sales_orders o LEFT JOIN LATERAL (SELECT count(*) AS n FROM sales_order_lines l WHERE l.order_id = o.id) l ON true
SELECT * FROM sales_orders o WHERE EXISTS (SELECT FROM sales_order_lines l WHERE l.order_id = o.id)
SELECT (p).sku, (p).name FROM catalog_products p
SELECT (p).* FROM catalog_products p
SELECT p FROM catalog_products p WHERE (p.category, p.currency) IN (SELECT 'a', 'EUR')
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT sum(i) FROM n
WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SEARCH DEPTH FIRST BY i SET o SELECT * FROM n ORDER BY o
WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i % 3 + 1 FROM n) CYCLE i SET is_cycle USING path SELECT * FROM n
WITH a AS MATERIALIZED (SELECT 1 AS x), b AS NOT MATERIALIZED (SELECT 2 AS y) SELECT * FROM a, b
SELECT d::date FROM generate_series(date '2026-01-01', date '2026-01-31', interval '1 day') AS d
SELECT now() AT TIME ZONE 'Europe/Berlin', now() AT LOCAL, current_timestamp - interval '1' day, age(now(), now() - interval '1-2' year to month)
SELECT timestamptz '2026-03-29 01:30+00' AT TIME ZONE 'Europe/Berlin' + make_interval(days => 3)
SELECT extract(epoch FROM now()), date_part('year', now()), to_char(now(), 'YYYY-MM'), justify_days(interval '40 days')
SELECT (ARRAY[1, 2, 3])[2:3], (ARRAY[1, 2, 3])[:2], array_length(ARRAY[[1, 2], [3, 4]], 1), ARRAY[]::int[], ARRAY(SELECT 1)
SELECT ROW(1, 2) = ROW(1, 2), (1, 2) < (3, 4), (date '2026-01-01', date '2026-02-01') OVERLAPS (date '2026-01-15', date '2026-03-01')
SELECT string_agg(DISTINCT name, ', ' ORDER BY name), array_agg(price ORDER BY price DESC) FROM catalog_products
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY price), mode() WITHIN GROUP (ORDER BY category) FROM catalog_products
SELECT count(*) FROM catalog_products TABLESAMPLE bernoulli (50) REPEATABLE (7)
SELECT count(*) FROM catalog_products TABLESAMPLE SYSTEM (50)
SELECT to_tsvector('english', name) @@ plainto_tsquery('english', 'chair'), ts_rank(to_tsvector('simple', name), to_tsquery('a & b')) FROM catalog_products
SELECT '{"a": {"b": [1, 2]}}'::jsonb #>> '{a,b}', '{"a": 1}'::jsonb @> '{}', '{"a": 1}'::jsonb ? 'a', '{"a": 1}'::jsonb ?| ARRAY['a'], '{"a": 1}'::jsonb - 'a', '{"a": 1}'::jsonb #- '{a}'
SELECT jsonb_path_query('{"a": [1, 2]}', '$.a[*]'), '{"a": 1}'::jsonb @? '$.a', '{"a": 1}'::jsonb @@ '$.a == 1'
SELECT j.* FROM json_table('[{"a": 1}]', '$[*]' COLUMNS (n FOR ORDINALITY, a int PATH '$.a')) AS j
SELECT '{}' IS JSON OBJECT, '1' IS NOT JSON ARRAY, json_exists(jsonb '{"a": 1}', '$.a'), json_value(jsonb '{"a": 1}', '$.a' RETURNING int), json_query(jsonb '{"a": 1}', '$.a' WITH WRAPPER)
SELECT json_object('a' : 1, 'b' VALUE 2), json_array(1, 2 NULL ON NULL), json_arrayagg(name ORDER BY name ABSENT ON NULL) FROM catalog_products
SELECT j.* FROM json_table(jsonb '{"a": [{"x": 1}, {}]}', '$.a[*] ? (@.x != $no)' PASSING 2 AS no COLUMNS (x int PATH '$.x' DEFAULT 0 ON EMPTY ERROR ON ERROR, is_x bool EXISTS PATH '$.x', NESTED '$.y[*]' COLUMNS (y jsonb FORMAT JSON PATH '$' WITH WRAPPER KEEP QUOTES NULL ON EMPTY)) ERROR ON ERROR) AS j
SELECT json_value((SELECT jsonb '{"a": 1}'), '$.a' RETURNING numeric(10, 2) DEFAULT 1.5 ON EMPTY NULL ON ERROR), json_query(jsonb '{}', '$.a' RETURNING jsonb EMPTY ARRAY ON EMPTY), json_exists(jsonb '{}', '$.a' PASSING 1 AS x FALSE ON ERROR), json_serialize('{}' RETURNING text)
SELECT json_array(SELECT sku FROM catalog_products ORDER BY 1), json_array(1, NULL NULL ON NULL RETURNING jsonb), json_objectagg(sku : price ABSENT ON NULL WITH UNIQUE KEYS RETURNING jsonb) FILTER (WHERE price > 1) FROM catalog_products
WITH json_array (a) AS (SELECT 1) SELECT json_array.a FROM json_array
SELECT array_agg(attrelid)::oid[], 1 = ANY('{1}'::oid[]), '{a}'::name[], CAST('{1}' AS oid[]), '{1}'::bit varying(3)[] FROM pg_attribute WHERE attrelid = 'catalog_products'::regclass
SELECT key, value FROM jsonb_each_text('{"a": 1}') AS pair (key, value)
SELECT * FROM jsonb_to_recordset('[{"a": 1, "b": "x"}]') AS r (a int, b text)
SELECT * FROM ROWS FROM (generate_series(1, 3), unnest(ARRAY['a', 'b'])) WITH ORDINALITY AS r (n, word, place)
SELECT u.word, u.place FROM unnest(string_to_array('a,b', ',')) WITH ORDINALITY AS u (word, place)
SELECT name FROM catalog_products ORDER BY price USING >
SELECT 'x' AS x, count(*) FROM sales_orders GROUP BY 'x'::text ORDER BY 'x'::text
SELECT sum(id) OVER (ORDER BY placed_on RANGE '1 day' PRECEDING) FROM sales_orders
SELECT name FROM catalog_products ORDER BY price USING OPERATOR(pg_catalog.<)
SELECT 1 OPERATOR(pg_catalog.+) 2, @ -5, |/ 25.0, 5 # 3, ~ 1, 2 ^ 3, 7 % 3, 1 << 2
SELECT int4range(1, 5) && int4range(3, 8), int4range(1, 5) -|- int4range(5, 8), '[1,3]'::int4range @> 2, point '(1,1)' <-> point '(2,2)', box '(1,1),(2,2)' |>> box '(0,0),(1,1)'
SELECT CASE WHEN price > 10 THEN 'dear' ELSE 'cheap' END, coalesce(name, sku), nullif(name, ''), greatest(1, 2) FROM catalog_products
SELECT name FROM catalog_products WHERE name ILIKE 'a%' ESCAPE '!' OR name SIMILAR TO '(a|b)%' OR name ~* '^c' OR name !~ 'x'
SELECT substring(name FROM 1 FOR 3), substring(name similar 'a#"b#"c' escape '#'), overlay(name placing 'x' FROM 1), position('a' in name), trim(both ' ' FROM name) FROM catalog_products
SELECT DISTINCT ON (category) category, sku FROM catalog_products ORDER BY category, price DESC
SELECT name COLLATE "C" FROM catalog_products ORDER BY name COLLATE "C" FETCH FIRST 3 ROWS WITH TIES
SELECT sku FROM catalog_products EXCEPT ALL (SELECT sku FROM catalog_products LIMIT 1) INTERSECT SELECT sku FROM catalog_products
TABLE catalog_products
VALUES (1, 'a'), (2, 'b') ORDER BY 1 DESC
(SELECT 1 AS n) UNION ALL (SELECT 2 LIMIT 1)
SELECT lag(price, 1, 0) OVER w, sum(price) OVER (w ROWS BETWEEN 2 PRECEDING AND CURRENT ROW EXCLUDE TIES) FROM catalog_products WINDOW w AS (ORDER BY sku)
SELECT b::bit(3), x'1F'::int, B'101', 0x1F, 1_000_000, 1.5e3, .5 FROM (VALUES (B'101')) AS v (b)
SELECT 'see set_config(' AS w, 'pg_sleep(1); DROP TABLE x' AS "pg_read_file(", 1 AS "ts_stat"
SELECT 'it''s' AS "Größe, netto", 1 AS naïve, 2 AS "a""b"
SELECT value, name, type FROM (VALUES (1, 2, 3)) AS v (value, name, type)
SELECT 1 AS select, 2 AS "from", 3 AS user
SELECT random(), gen_random_uuid(), clock_timestamp(), current_user, current_schema(), current_setting('server_version'), version()
SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
SELECT attname, atttypid::regtype, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'catalog_products'::regclass AND attnum > 0
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass('catalog_products')
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()
SELECT pg_typeof(1)::text, has_table_privilege('catalog_products', 'SELECT'), pg_column_size(1), obj_description(1, 'pg_class')
SELECT regexp_replace(name, '(a)', '\1\1', 'g'), regexp_match(name, 'a'), format('%s-%I', name, 'x'), split_part(name, ' ', 1), concat_ws(', ', 'a', name) FROM catalog_products
SELECT count(*) FROM catalog_products p FULL JOIN catalog_products q USING (sku) AS j NATURAL JOIN (VALUES (1)) AS v (one)
SELECT collation for (name), name IS NORMALIZED, normalize(name, NFC), name IS DISTINCT FROM sku, price BETWEEN SYMMETRIC 2 AND 1 FROM catalog_products
SELECT width_bucket(price, 0, 100, 5), round(price, 1), ceil(price), stddev(price) OVER (), ntile(4) OVER (ORDER BY price), cume_dist() OVER (ORDER BY price) FROM catalog_products
SELECT corr(1, 2), regr_slope(1, 2), bool_and(true), every(true), bit_or(1), jsonb_object_agg(sku, price) FROM catalog_products
SELECT encode(sha256('a'::bytea), 'hex'), md5('a'), crc32('a'), to_hex(255), to_number('1,000', '9,999')
EXPLAIN SELECT * FROM catalog_products
EXPLAIN (FORMAT json, COSTS off) SELECT count(*) FROM catalog_products
EXPLAIN VERBOSE TABLE catalog_products;
SHOW work_mem
SHOW ALL
SELECT 1 AS a; -- done
SELECT 1 AS a /* done */ ;;
"""

_SEVERAL_LINES = r"""SELECT $$it's$$, $tag$a $$ b$tag$, E'tab\tand \\ and \'', 'back\slash', 'a' -- a comment that says set_config(
  'b' AS c, /* pg_sleep(1) /* nested */ */ "text"
FROM (VALUES (1)) AS v ("text")"""

QUERIES = (*READING.strip().splitlines(), _SEVERAL_LINES)

# What this server has no part for, or is too old for.
ELSEWHERE = r"""
SELECT category, max(price) FROM catalog_products GROUP BY ALL
SELECT xmlelement(name item, xmlattributes(sku AS id), name), xmlforest(sku AS s) FROM catalog_products
SELECT id FROM xmltable('/r/i' PASSING xml '<r><i id="1"/></r>' COLUMNS id int PATH '@id') AS x
""".strip().splitlines()
